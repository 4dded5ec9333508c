//! Pure: what is wrong with a text that is not JSON, in the words of Go's decoder, which clients know.

/// What a decoder in Go complains of; none where it would find nothing wrong.
pub(super) fn complaint(text: &[u8]) -> Option<String> {
    let fault = Scanner { text, at: 0 }.document().err()?;
    Some(match fault {
        Fault::End => "unexpected end of JSON input".to_owned(),
        Fault::Character(found, place) => format!("invalid character {} {place}", quoted(found)),
    })
}

enum Fault {
    End,
    /// This one does not belong where it stands.
    Character(u8, String),
}

#[derive(Clone, Copy)]
enum Inside {
    Object,
    Array,
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn document(&mut self) -> Result<(), Fault> {
        let mut open = Vec::new();
        loop {
            if let Some(opened) = self.begin_value()? {
                open.push(opened);
                continue;
            }
            // A value has ended, and perhaps what it stood in.
            loop {
                self.space();
                match open.last() {
                    None if self.at == self.text.len() => return Ok(()),
                    None => return Err(self.fault("after top-level value")),
                    Some(Inside::Object) if self.take(b',') => {
                        self.key()?;
                        break;
                    }
                    Some(Inside::Array) if self.take(b',') => break,
                    Some(Inside::Object) if self.take(b'}') => drop(open.pop()),
                    Some(Inside::Array) if self.take(b']') => drop(open.pop()),
                    Some(Inside::Object) => return Err(self.fault("after object key:value pair")),
                    Some(Inside::Array) => return Err(self.fault("after array element")),
                }
            }
        }
    }

    /// Reads a scalar or an empty object or list whole; of others the beginning, up to their first value.
    fn begin_value(&mut self) -> Result<Option<Inside>, Fault> {
        self.space();
        match self.peek() {
            Some(b'{') => {
                self.at += 1;
                self.space();
                if self.take(b'}') {
                    return Ok(None);
                }
                self.key()?;
                return Ok(Some(Inside::Object));
            }
            Some(b'[') => {
                self.at += 1;
                self.space();
                return Ok((!self.take(b']')).then_some(Inside::Array));
            }
            Some(b'"') => self.string()?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.literal("true")?,
            Some(b'f') => self.literal("false")?,
            Some(b'n') => self.literal("null")?,
            _ => return Err(self.fault("looking for beginning of value")),
        }
        Ok(None)
    }

    fn key(&mut self) -> Result<(), Fault> {
        self.space();
        if self.peek() != Some(b'"') {
            return Err(self.fault("looking for beginning of object key string"));
        }
        self.string()?;
        self.space();
        if self.take(b':') { Ok(()) } else { Err(self.fault("after object key")) }
    }

    fn string(&mut self) -> Result<(), Fault> {
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                None | Some(..0x20) => return Err(self.fault("in string literal")),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Some(b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.fault("in \\u hexadecimal character escape"));
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.fault("in string escape code")),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits("in numeric literal")?;
        }
        if self.take(b'.') {
            self.digits("after decimal point in numeric literal")?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    /// At least one.
    fn digits(&mut self, place: &str) -> Result<(), Fault> {
        let begin = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == begin { Err(self.fault(place)) } else { Ok(()) }
    }

    fn literal(&mut self, word: &str) -> Result<(), Fault> {
        for expected in word.bytes() {
            if !self.take(expected) {
                return Err(self.fault(&format!("in literal {word} (expecting {})", quoted(expected))));
            }
        }
        Ok(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, wanted: u8) -> bool {
        let is_there = self.peek() == Some(wanted);
        self.at += usize::from(is_there);
        is_there
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn fault(&self, place: &str) -> Fault {
        self.peek().map_or(Fault::End, |found| Fault::Character(found, place.to_owned()))
    }
}

/// A byte as Go shows it.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        0x0b => r"'\v'".to_owned(),
        0x0c => r"'\f'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        0..0x20 | 0x7f => format!(r"'\x{byte:02x}'"),
        0x80..=0xa0 | 0xad => format!(r"'\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_read_as_gos() {
        for (text, expected) in [
            ("", "unexpected end of JSON input"),
            ("  {\"a\": ", "unexpected end of JSON input"),
            ("\"a", "unexpected end of JSON input"),
            ("not json", "invalid character 'o' in literal null (expecting 'u')"),
            ("hello", "invalid character 'h' looking for beginning of value"),
            ("{a: 1}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\": 1,}", "invalid character '}' looking for beginning of object key string"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\": 1 \"b\": 2}", "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("01", "invalid character '1' after top-level value"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1e}", "invalid character '}' in exponent of numeric literal"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            (r#""\x""#, "invalid character 'x' in string escape code"),
            (r#""\u12g4""#, r"invalid character 'g' in \u hexadecimal character escape"),
            ("'a'", r"invalid character '\'' looking for beginning of value"),
            ("\u{e9}", "invalid character '\u{c3}' looking for beginning of value"),
        ] {
            assert_eq!(complaint(text.as_bytes()).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn nothing_is_wrong_with_json() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        for text in ["null", " [ ] ", "{}", r#"{"a": [1, -0.5e+3, "x\u00e9\n", {"b": {}}, true, false]}"#, &deep] {
            assert_eq!(complaint(text.as_bytes()), None);
        }
    }
}
