//! Pure: Kubernetes' timestamps: RFC 3339 in UTC with whole seconds, and `metav1.MicroTime`.

/// Days since 1970-01-01 of a date of the Gregorian calendar (Howard Hinnant's algorithm).
#[must_use]
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// `2026-11-22T03:46:56Z`.
#[must_use]
pub fn rfc3339(unix_ms: i64) -> String {
    let seconds = unix_ms.div_euclid(1000);
    let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
    let rest = seconds.rem_euclid(86_400);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// `2026-11-22T03:46:56.123000Z`.
#[must_use]
pub fn micro_time(unix_ms: i64) -> String {
    let whole = rfc3339(unix_ms);
    format!("{}.{:03}000Z", whole.trim_end_matches('Z'), unix_ms.rem_euclid(1000))
}

/// Unix milliseconds of an RFC 3339 time in UTC or with an offset; none if it is no such time.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let days = days_from_civil(number(0..4)?, number(5..7)?, number(8..10)?);
    let seconds = days * 86_400 + number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
    let rest = text.get(19..)?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let millis = rest.get(1..zone_at).map_or(0, |fraction| {
        let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
        digits.parse().unwrap_or(0)
    });
    let zone = &rest[zone_at..];
    let offset = if zone.len() >= 6 {
        let minutes = zone[1..3].parse::<i64>().ok()? * 60 + zone[4..6].parse::<i64>().ok()?;
        if zone.starts_with('-') { -minutes } else { minutes }
    } else {
        0
    };
    Some((seconds - offset * 60) * 1000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_there_and_back() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_795_319_216_000, "2026-11-22T03:46:56Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(unix_ms), text);
            assert_eq!(parse_rfc3339(text), Some(unix_ms));
        }
        assert_eq!(parse_rfc3339("2026-11-22T05:46:56.25+02:00"), Some(1_795_319_216_250));
        assert_eq!(micro_time(1_795_319_216_250), "2026-11-22T03:46:56.250000Z");
        assert_eq!(parse_rfc3339("later"), None);
    }
}
