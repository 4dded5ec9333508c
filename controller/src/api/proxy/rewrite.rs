//! Pure: links of a proxied page and redirects, so that they lead through the proxy again.

/// Attributes that hold links, by tag.
const LINKS: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Whose links are led through the proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behind<'a> {
    /// The proxy's own path, without a slash at its end.
    pub(crate) prefix: &'a str,
    /// `host:port` of what is proxied.
    pub(crate) authority: &'a str,
}

impl Behind<'_> {
    /// The link as the client must ask for it; relative and foreign ones stay.
    pub(crate) fn link(&self, link: &str) -> String {
        let after_scheme =
            link.strip_prefix("http://").or_else(|| link.strip_prefix("https://")).or(link.strip_prefix("//"));
        let path = match after_scheme {
            Some(rest) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                if &rest[..end] != self.authority {
                    return link.to_owned();
                }
                &rest[end..]
            }
            None => link,
        };
        if !path.starts_with('/') || path.starts_with(self.prefix) {
            return link.to_owned();
        }
        format!("{}{path}", self.prefix)
    }

    /// A page with its links led through the proxy. Everything else stays byte for byte.
    pub(crate) fn page(&self, page: &str) -> String {
        let (mut out, mut rest) = (String::with_capacity(page.len() + 256), page);
        while let Some(start) = rest.find('<') {
            out.push_str(&rest[..start]);
            rest = &rest[start..];
            if let Some(comment) = rest.strip_prefix("<!--") {
                let end = comment.find("-->").map_or(rest.len(), |end| end + 7);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            let end = end_of_tag(rest);
            self.tag(&rest[..end], &mut out);
            rest = &rest[end..];
        }
        out.push_str(rest);
        out
    }

    /// One tag, from `<` to `>`.
    fn tag(&self, tag: &str, out: &mut String) {
        let name_end = tag[1..].find(|c: char| !c.is_ascii_alphanumeric()).map_or(tag.len(), |end| end + 1);
        let name = tag[1..name_end].to_ascii_lowercase();
        let Some((_, attributes)) = LINKS.iter().find(|(known, _)| *known == name) else {
            return out.push_str(tag);
        };
        out.push_str(&tag[..name_end]);
        let mut rest = &tag[name_end..];
        while let Some(equals) = rest.find('=') {
            let attribute =
                rest[..equals].trim_end().rsplit(|c: char| c.is_whitespace() || c == '/').next().unwrap_or_default();
            let attribute = attribute.to_ascii_lowercase();
            out.push_str(&rest[..=equals]);
            rest = &rest[equals + 1..];
            let blank = rest.len() - rest.trim_start().len();
            out.push_str(&rest[..blank]);
            rest = &rest[blank..];
            let (open, close): (usize, &[char]) = match rest.chars().next() {
                Some('"') => (1, &['"']),
                Some('\'') => (1, &['\'']),
                _ => (0, &[' ', '\t', '\n', '\r', '>']),
            };
            let length = rest[open..].find(close).unwrap_or(rest.len() - open);
            let value = &rest[open..open + length];
            out.push_str(&rest[..open]);
            if attributes.contains(&attribute.as_str()) {
                out.push_str(&self.link(value));
            } else {
                out.push_str(value);
            }
            rest = &rest[open + length..];
            // The closing quote belongs to no next attribute.
            if open == 1 && !rest.is_empty() {
                out.push_str(&rest[..1]);
                rest = &rest[1..];
            }
        }
        out.push_str(rest);
    }
}

/// Behind the `>` that ends a tag; one in quotes does not.
fn end_of_tag(text: &str) -> usize {
    let mut quote = None;
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return at + 1,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEHIND: Behind<'_> = Behind { prefix: "/api/v1/namespaces/a/pods/web:80/proxy", authority: "10.1.0.2:80" };

    #[test]
    fn links_lead_through_the_proxy() {
        assert_eq!(BEHIND.link("/x?y#z"), "/api/v1/namespaces/a/pods/web:80/proxy/x?y#z");
        assert_eq!(BEHIND.link("http://10.1.0.2:80/x"), "/api/v1/namespaces/a/pods/web:80/proxy/x");
        for stays in ["x", "http://example.com/x", "#top", "/api/v1/namespaces/a/pods/web:80/proxy/x", "mailto:a@b"] {
            assert_eq!(BEHIND.link(stays), stays);
        }
    }

    #[test]
    fn pages_keep_everything_but_their_links() {
        let page = "<!doctype html><!-- <a href=\"/no\"> --><A class=x HREF='/rewriteme'>a < b</a>\
                    <img alt=\"1 > 0\" src=/i.png><p href=\"/no\">text";
        let expected = "<!doctype html><!-- <a href=\"/no\"> --><A class=x HREF='/api/v1/namespaces/a/pods/web:80/proxy/rewriteme'>\
                        a < b</a><img alt=\"1 > 0\" src=/api/v1/namespaces/a/pods/web:80/proxy/i.png><p href=\"/no\">text";
        assert_eq!(BEHIND.page(page), expected);
        assert_eq!(BEHIND.page("<a href=\"/x"), "<a href=\"/api/v1/namespaces/a/pods/web:80/proxy/x");
        assert_eq!(BEHIND.page("<a =\u{e9}"), "<a =\u{e9}");
    }
}
