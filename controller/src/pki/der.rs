//! Pure: the few DER forms that a certificate is made of (X.690, RFC 5280).
//!
//! Written here because the certificate library at hand keeps a subject's attributes in a map and so silently loses all but
//! the last organisation, which is a user's group.

/// SEQUENCE.
pub(super) const SEQUENCE: u8 = 0x30;
/// SET.
pub(super) const SET: u8 = 0x31;

/// One element: tag, length, content.
pub(super) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let bytes = content.len().to_be_bytes();
    match content.len() {
        short @ 0..=0x7f => out.push(short as u8),
        _ => {
            let significant = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            out.push(0x80 | significant.len() as u8);
            out.extend_from_slice(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

/// SEQUENCE of elements.
pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(SEQUENCE, &parts.concat())
}

/// INTEGER from a big-endian magnitude.
pub(super) fn integer(magnitude: &[u8]) -> Vec<u8> {
    let trimmed = &magnitude[magnitude.iter().take_while(|byte| **byte == 0).count()..];
    let mut content = Vec::with_capacity(trimmed.len() + 1);
    if trimmed.first().is_none_or(|first| first & 0x80 != 0) {
        content.push(0);
    }
    content.extend_from_slice(trimmed);
    element(0x02, &content)
}

/// OBJECT IDENTIFIER from its encoded arcs.
pub(super) fn oid(arcs: &[u8]) -> Vec<u8> {
    element(0x06, arcs)
}

/// BIT STRING of whole bytes.
pub(super) fn bit_string(content: &[u8]) -> Vec<u8> {
    element(0x03, &[&[0], content].concat())
}

/// BIT STRING of named bits, bit 0 the most significant, trailing zeros cut as DER demands.
pub(super) fn named_bits(bits: u16) -> Vec<u8> {
    let bytes = bits.to_be_bytes();
    let used = if bytes[1] != 0 { 2 } else { usize::from(bytes[0] != 0) };
    let unused = if used == 0 { 0 } else { bytes[used - 1].trailing_zeros() as u8 };
    element(0x03, &[&[unused], &bytes[..used]].concat())
}

/// OCTET STRING.
pub(super) fn octets(content: &[u8]) -> Vec<u8> {
    element(0x04, content)
}

/// BOOLEAN TRUE.
pub(super) fn truth() -> Vec<u8> {
    vec![0x01, 0x01, 0xff]
}

/// A Name with one attribute a relative name: common name last, organisations before it, as Go writes them.
pub(super) fn name(common_name: &str, organizations: &[&str]) -> Vec<u8> {
    let attribute = |arcs: &[u8], text: &str| element(SET, &sequence(&[&oid(arcs), &element(0x0c, text.as_bytes())]));
    let mut content = Vec::new();
    for organization in organizations {
        content.extend(attribute(&[0x55, 4, 10], organization));
    }
    content.extend(attribute(&[0x55, 4, 3], common_name));
    element(SEQUENCE, &content)
}

/// UTCTime until 2049, GeneralizedTime after (RFC 5280, 4.1.2.5). Seconds since 1970.
pub(super) fn time(unix: i64) -> Vec<u8> {
    let (year, month, day) = civil(unix.div_euclid(86_400));
    let second = unix.rem_euclid(86_400);
    let rest = format!("{month:02}{day:02}{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60);
    if (1950..2050).contains(&year) {
        element(0x17, format!("{:02}{rest}", year % 100).as_bytes())
    } else {
        element(0x18, format!("{year:04}{rest}").as_bytes())
    }
}

/// The date of a day since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_integers_are_minimal() {
        assert_eq!(element(4, &[0; 3])[..2], [4, 3]);
        assert_eq!(element(4, &[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(element(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
        assert_eq!(integer(&[0, 0, 5]), [2, 1, 5]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[]), [2, 1, 0]);
        assert_eq!(named_bits(0x8000), [3, 2, 7, 0x80]);
        assert_eq!(named_bits(0x0600), [3, 2, 1, 0x06]);
    }

    #[test]
    fn times_choose_their_form_by_year() {
        assert_eq!(time(0), [&[0x17, 13][..], b"700101000000Z"].concat());
        assert_eq!(time(1_767_225_599), [&[0x17, 13][..], b"251231235959Z"].concat());
        assert_eq!(time(951_782_400), [&[0x17, 13][..], b"000229000000Z"].concat());
        assert_eq!(time(2_524_608_000), [&[0x18, 15][..], b"20500101000000Z"].concat());
    }
}
