//! Pure: Kubernetes quantities (`100m`, `1.5Gi`, `2e3`) as whole thousandths.

use serde_json::Value;

/// The quantity in thousandths of its unit; none if it is no quantity.
pub(crate) fn milli(value: &Value) -> Option<i128> {
    match value {
        Value::String(text) => parse(text),
        Value::Number(number) => parse(&number.to_string()),
        _ => None,
    }
}

/// The quantity in whole units, rounded up, as upstream's `Value()`.
pub(crate) fn units(value: &Value) -> Option<i64> {
    let milli = milli(value)?;
    i64::try_from(milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0)).ok()
}

fn parse(text: &str) -> Option<i128> {
    let text = text.trim();
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && !"+-.".contains(letter)).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (numerator, denominator): (i128, i128) = match suffix {
        "" => (1000, 1),
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        "Ei" => (1000 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let scale = 10_i128.checked_pow(power.unsigned_abs())?;
            if power >= 0 { (1000 * scale, 1) } else { (1000, scale) }
        }
    };
    let negative = number.starts_with('-');
    let number = number.trim_start_matches(['+', '-']);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 18 {
        return None;
    }
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = digits.checked_mul(numerator)?;
    let divisor = scale * denominator;
    let magnitude = scaled / divisor + i128::from(scaled % divisor != 0);
    Some(if negative { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_read_exactly() {
        for (text, thousandths) in [
            ("100m", 100),
            ("1", 1000),
            ("1.5", 1500),
            ("0.1", 100),
            ("64Mi", 64_000 << 20),
            ("1.5Gi", 1_610_612_736_000),
            ("2e3", 2_000_000),
            ("1k", 1_000_000),
            ("1n", 1),
        ] {
            assert_eq!(milli(&json!(text)), Some(thousandths), "{text}");
        }
        assert_eq!(units(&json!("1500m")), Some(2));
        assert_eq!(units(&json!(3)), Some(3));
        for bad in ["", "Mi", "1x", "1.2.3"] {
            assert_eq!(milli(&json!(bad)), None, "{bad}");
        }
    }
}
