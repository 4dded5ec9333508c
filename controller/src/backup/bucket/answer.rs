//! Pure: what is read of S3's XML: the text of a few elements whose names never nest.

/// The texts of all elements of this name, in order, entities resolved.
pub(super) fn texts(xml: &str, name: &str) -> Vec<String> {
    let (start, end) = (format!("<{name}>"), format!("</{name}>"));
    let mut found = Vec::new();
    let mut rest = xml;
    while let Some((_, after)) = rest.split_once(&start) {
        let Some((text, after)) = after.split_once(&end) else { break };
        found.push(resolved(text));
        rest = after;
    }
    found
}

/// The first of them.
pub(super) fn text(xml: &str, name: &str) -> Option<String> {
    texts(xml, name).into_iter().next()
}

fn resolved(text: &str) -> String {
    let plain = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
    plain.replace("&#34;", "\"").replace("&amp;", "&")
}

/// The list of parts that ends a multipart upload.
pub(super) fn parts(tags: &[String]) -> String {
    let part = |(index, tag): (usize, &String)| {
        let tag = tag.replace('&', "&amp;").replace('<', "&lt;");
        format!("<Part><PartNumber>{}</PartNumber><ETag>{tag}</ETag></Part>", index + 1)
    };
    let list: String = tags.iter().enumerate().map(part).collect();
    format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_in_order() {
        let xml = "<A><Key>a&amp;lt;b</Key><Size>1</Size><Key>c</Key><Key>half";
        assert_eq!(texts(xml, "Key"), ["a&lt;b", "c"]);
        assert_eq!(text(xml, "Size").as_deref(), Some("1"));
        assert_eq!(text(xml, "None"), None);
    }

    #[test]
    fn parts_count_from_one() {
        let xml = parts(&["\"x\"".into(), "y".into()]);
        assert_eq!(texts(&xml, "PartNumber"), ["1", "2"]);
        assert_eq!(texts(&xml, "ETag"), ["\"x\"", "y"]);
    }
}
