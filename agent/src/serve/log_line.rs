//! Pure: lines of the CRI log format (`<RFC 3339> <stdout|stderr> <F|P>[:tags] <text>`) and which of them a client wants.

use crate::pods::time::parse_rfc3339;

/// A line longer than the shim writes is no line of ours.
pub(crate) const LINE_MAX_BYTES: usize = 64 * 1024;

/// Filters and shapes lines.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// Unix milliseconds; earlier lines are left out.
    pub(crate) since: Option<i64>,
    pub(crate) timestamps: bool,
    /// Bytes that may still be sent.
    pub(crate) limit: Option<u64>,
    /// Only this stream.
    pub(crate) stream: Option<&'static [u8]>,
    /// The last line sent was only a part: the next continues it.
    pub(crate) continued: bool,
}

impl Selection {
    /// Appends what the client gets of one line (without its line feed) to `out`.
    pub(crate) fn put(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(parsed) = parse(line) else { return };
        if self.stream.is_some_and(|wanted| wanted != parsed.stream) {
            return;
        }
        if let Some(since) = self.since
            && std::str::from_utf8(parsed.time).ok().and_then(parse_rfc3339).is_some_and(|time| time < since)
        {
            return;
        }
        let start = out.len();
        if self.timestamps && !self.continued {
            out.extend_from_slice(parsed.time);
            out.push(b' ');
        }
        out.extend_from_slice(parsed.text);
        if !parsed.partial {
            out.push(b'\n');
        }
        self.continued = parsed.partial;
        if let Some(limit) = &mut self.limit {
            let sent = (out.len() - start) as u64;
            if sent > *limit {
                out.truncate(start + usize::try_from(*limit).unwrap_or(0));
            }
            *limit = limit.saturating_sub(sent);
        }
    }

    /// Whether the client has all the bytes that it wanted.
    pub(crate) fn full(&self) -> bool {
        self.limit == Some(0)
    }
}

struct Line<'a> {
    time: &'a [u8],
    stream: &'a [u8],
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |b| *b == b' ');
    let (time, stream, tag) = (fields.next()?, fields.next()?, fields.next()?);
    let text = fields.next().unwrap_or_default();
    Some(Line { time, stream, partial: tag.first() == Some(&b'P'), text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(mut selection: Selection, lines: &[&str]) -> String {
        let mut out = Vec::new();
        for line in lines {
            selection.put(line.as_bytes(), &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    const LINES: [&str; 4] = [
        "2026-11-22T10:00:00.000000000Z stdout F one",
        "2026-11-22T10:00:01.5Z stderr P tw",
        "2026-11-22T10:00:01.500000001Z stderr F o",
        "2026-11-22T10:00:02Z stdout F ",
    ];

    #[test]
    fn parts_are_joined_and_stamped_once() {
        assert_eq!(selected(Selection::default(), &LINES), "one\ntwo\n\n");
        let stamped = selected(Selection { timestamps: true, ..Selection::default() }, &LINES[1..3]);
        assert_eq!(stamped, "2026-11-22T10:00:01.5Z two\n");
    }

    #[test]
    fn since_stream_and_limit_cut() {
        let since = parse_rfc3339("2026-11-22T10:00:01Z");
        assert_eq!(selected(Selection { since, ..Selection::default() }, &LINES), "two\n\n");
        assert_eq!(selected(Selection { stream: Some(b"stdout"), ..Selection::default() }, &LINES), "one\n\n");
        assert_eq!(selected(Selection { limit: Some(5), ..Selection::default() }, &LINES), "one\nt");
    }

    #[test]
    fn foreign_lines_are_passed_over() {
        assert_eq!(selected(Selection::default(), &["", "nonsense", "a b"]), "");
    }
}
