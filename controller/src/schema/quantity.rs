//! Pure: resource quantities (`100m`, `1Gi`, `12e6`): parsed, compared, added and written in canonical form.
//!
//! A quantity is a whole number of nanos and the notation that it prefers; as upstream, smaller parts are rounded away
//! from zero.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

const NANOS: i128 = 1_000_000_000;
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// Above this, upstream's binary quantities are capped.
const BINARY_MAX: i128 = (i64::MAX as i128) * NANOS;

/// The notation that a quantity was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `1k`, `100m`.
    #[default]
    DecimalSi,
    /// `1Ki`.
    BinarySi,
    /// `1e3`.
    DecimalExponent,
}

/// A string that is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Wrong form, upstream's message.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// A number that cannot be read, upstream's message.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// An unknown suffix, upstream's message.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An amount of a resource.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// A whole number.
    pub const fn from_units(units: i64, format: Format) -> Quantity {
        Quantity { nanos: units as i128 * NANOS, format }
    }

    /// A number of thousandths.
    pub const fn from_millis(millis: i64, format: Format) -> Quantity {
        Quantity { nanos: millis as i128 * 1_000_000, format }
    }

    /// The quantity in a JSON value: a string, or a number as YAML writers leave it.
    pub fn from_value(value: &Value) -> Result<Quantity, QuantityError> {
        match value {
            Value::String(text) => text.parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(QuantityError::Format),
        }
    }

    /// The value rounded up to a whole number, saturating.
    pub fn value(self) -> i64 {
        saturate(round_up(self.nanos, NANOS))
    }

    /// The value in thousandths rounded up, saturating: millicores.
    pub fn millis(self) -> i64 {
        saturate(round_up(self.nanos, NANOS / 1000))
    }

    /// The value as a float, for metrics.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it is a whole number.
    pub fn is_whole(self) -> bool {
        self.nanos % NANOS == 0
    }

    /// The notation it was written in.
    pub fn format(self) -> Format {
        self.format
    }

    /// The sum; the notation is that of the first that is not zero.
    pub fn plus(self, other: Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    /// The difference.
    pub fn minus(self, other: Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

fn round_up(nanos: i128, unit: i128) -> i128 {
    nanos / unit + if nanos % unit == 0 { 0 } else { nanos.signum() }
}

fn saturate(value: i128) -> i64 {
    value.clamp(i64::MIN as i128, i64::MAX as i128) as i64
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Quantity, QuantityError> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let negative = text.starts_with('-');
        let whole_end = unsigned.find(|c: char| !c.is_ascii_digit()).unwrap_or(unsigned.len());
        let (whole, rest) = unsigned.split_at(whole_end);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
            None => ("", rest),
        };
        if text.is_empty() || !suffix_shaped(suffix) {
            return Err(QuantityError::Format);
        }
        let (base, exponent, format) = interpret(suffix).ok_or(QuantityError::Suffix)?;
        if whole.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Numeric);
        }
        let mut nanos = magnitude(whole, fraction, base, exponent);
        let mut format = format;
        if format == Format::BinarySi {
            nanos = nanos.min(BINARY_MAX);
            if nanos > 0 && nanos < NANOS {
                format = Format::DecimalSi;
            }
        }
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }
}

/// The digits as nanos, smaller parts rounded up, larger ones than fit saturated.
fn magnitude(whole: &str, fraction: &str, base: i128, exponent: i32) -> i128 {
    let digits = whole.bytes().chain(fraction.bytes());
    let mut mantissa: i128 = 0;
    let mut dropped = 0;
    let mut inexact = false;
    for digit in digits {
        // Twenty-five digits leave room for any suffix; what follows them only rounds.
        if mantissa >= 10_i128.pow(25) {
            dropped += 1;
            inexact |= digit != b'0';
        } else {
            mantissa = mantissa * 10 + i128::from(digit - b'0');
        }
    }
    let mut power = 9 - fraction.len() as i32 + dropped;
    if base == 10 {
        power += exponent;
    } else {
        mantissa = mantissa.saturating_mul(1_i128 << exponent);
    }
    if mantissa == 0 {
        return 0;
    }
    if power >= 0 {
        return 10_i128.checked_pow(power as u32).map_or(i128::MAX, |scale| mantissa.saturating_mul(scale));
    }
    match 10_i128.checked_pow(power.unsigned_abs()) {
        Some(unit) => mantissa / unit + i128::from(mantissa % unit != 0 || inexact),
        None => 1,
    }
}

fn suffix_shaped(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    rest.bytes().all(|c| c.is_ascii_digit())
}

/// Base, exponent and notation of a suffix.
fn interpret(suffix: &str) -> Option<(i128, i32, Format)> {
    if let Some(index) = DECIMAL.iter().position(|&known| known == suffix) {
        return Some((10, index as i32 * 3 - 9, Format::DecimalSi));
    }
    if let Some(index) = BINARY.iter().position(|&known| known == suffix) {
        return Some((2, index as i32 * 10, Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    Some((10, exponent, Format::DecimalExponent)).filter(|_| (-999..=999).contains(&exponent))
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos % NANOS == 0;
        if self.format == Format::BinarySi && whole && self.nanos.abs() >= 1024 * NANOS {
            let (mut number, mut step) = (self.nanos / NANOS, 0);
            while number % 1024 == 0 && step + 1 < BINARY.len() {
                number /= 1024;
                step += 1;
            }
            return write!(f, "{number}{}", BINARY[step]);
        }
        let (mut number, mut step) = (self.nanos, 0);
        while number % 1000 == 0 && (self.format == Format::DecimalExponent || step + 1 < DECIMAL.len()) {
            number /= 1000;
            step += 1;
        }
        match (self.format, step as i32 * 3 - 9) {
            (Format::DecimalExponent, 0) => write!(f, "{number}"),
            (Format::DecimalExponent, exponent) => write!(f, "{number}e{exponent}"),
            _ => write!(f, "{number}{}", DECIMAL[step]),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Quantity>().unwrap().to_string()
    }

    #[test]
    fn canonical_forms_are_upstreams() {
        for (text, expected) in [
            ("0", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("100m", "100m"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1000Ki", "1000Ki"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("12E6", "12e6"),
            ("1E", "1E"),
            ("1000", "1k"),
            ("128974848", "128974848"),
            ("0.1n", "1n"),
            ("-2", "-2"),
            ("+2k", "2k"),
            ("1100", "1100"),
            ("100000", "100k"),
            ("1e20", "100e18"),
            ("12e-4", "1200e-6"),
            ("100Ei", "9223372036854775807"),
            ("1.2345678901", "1234567891n"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn wrong_forms() {
        for text in ["", "abc", "1 Gi", "1Gix"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Format), "{text}");
        }
        assert_eq!("1Kx".parse::<Quantity>(), Err(QuantityError::Format));
        assert_eq!("1KK".parse::<Quantity>(), Err(QuantityError::Suffix));
        assert!("9".repeat(200).parse::<Quantity>().is_ok());
        assert!(format!("1e{}", "9".repeat(50)).parse::<Quantity>().is_err());
    }

    #[test]
    fn arithmetic() {
        let half: Quantity = "500m".parse().unwrap();
        let gib: Quantity = "1Gi".parse().unwrap();
        assert_eq!((half.millis(), half.value(), gib.value()), (500, 1, 1 << 30));
        assert!(half < gib);
        assert_eq!(half.plus(half).to_string(), "1");
        assert_eq!(Quantity::default().plus(gib).to_string(), "1Gi");
        assert_eq!(gib.minus(gib), Quantity::default());
    }
}
