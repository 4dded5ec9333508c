//! Pure: how long another server's answer may be kept, and how much of that is left.
//!
//! Reads foreign bytes: every offset is checked, pointers are skipped and never followed.

const HEADER: usize = 12;
const OPT: u16 = 41;
const SOA: u16 = 6;

/// Where the lifetimes of the records stand in the message; none when the message cannot be read.
fn places(message: &[u8]) -> Option<Vec<(u16, usize)>> {
    let count = |at: usize| -> Option<usize> { Some(usize::from(u16_at(message, at)?)) };
    let mut at = HEADER;
    for _ in 0..count(4)? {
        at = skip_name(message, at)? + 4;
    }
    let records = count(6)? + count(8)? + count(10)?;
    let mut places = Vec::new();
    for _ in 0..records {
        at = skip_name(message, at)?;
        let kind = u16_at(message, at)?;
        let length = usize::from(u16_at(message, at + 8)?);
        if kind != OPT {
            places.push((kind, at + 4));
        }
        at += 10 + length;
        if at > message.len() {
            return None;
        }
    }
    Some(places)
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(message.get(at..at + 4)?.try_into().ok()?))
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length if length & 0xc0 == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// Seconds that the answer may be kept: the least of its records; of a negative one also its SOA's minimum (RFC 2308).
pub(crate) fn seconds(message: &[u8]) -> Option<u32> {
    let rcode = message.get(3)? & 0x0f;
    let truncated = message[2] & 0x02 != 0;
    let (no_error, no_such_name) = (0, 3);
    if truncated || (rcode != no_error && rcode != no_such_name) {
        return None;
    }
    let places = places(message)?;
    let negative = rcode == no_such_name || u16_at(message, 6)? == 0;
    if negative && !places.iter().any(|(kind, _)| *kind == SOA) {
        return None;
    }
    let mut least = u32::MAX;
    for (kind, at) in places {
        least = least.min(u32_at(message, at)?);
        if negative && kind == SOA {
            let end = at + 6 + usize::from(u16_at(message, at + 4)?);
            least = least.min(u32_at(message, end.checked_sub(4)?)?);
        }
    }
    (least != u32::MAX).then_some(least)
}

/// Takes the time that has passed off every record.
pub(crate) fn age(message: &mut [u8], passed_s: u32) {
    for (_, at) in places(message).unwrap_or_default() {
        let left = u32_at(message, at).unwrap_or(0).saturating_sub(passed_s);
        message[at..at + 4].copy_from_slice(&left.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer: a.b A 1.2.3.4 with this lifetime.
    fn answer(ttl: u8) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 1, b'a', 1, b'b', 0, 0, 1, 0, 1];
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 4, 1, 2, 3, 4]);
        bytes
    }

    #[test]
    fn the_least_lifetime_counts_and_ages() {
        let mut message = answer(60);
        assert_eq!(seconds(&message), Some(60));
        age(&mut message, 45);
        assert_eq!(seconds(&message), Some(15));
        age(&mut message, 45);
        assert_eq!(seconds(&message), Some(0));
    }

    #[test]
    fn failures_truncated_and_torn_answers_are_not_kept() {
        let mut failed = answer(60);
        failed[3] |= 2;
        assert_eq!(seconds(&failed), None);
        let mut truncated = answer(60);
        truncated[2] |= 2;
        assert_eq!(seconds(&truncated), None);
        let whole = answer(60);
        for length in 0..whole.len() {
            assert_eq!(seconds(&whole[..length]), None, "{length}");
            age(&mut whole[..length].to_vec(), 1);
        }
    }
}
