//! Pure: AWS Signature Version 4 in headers, as S3 and what speaks its protocol want it: over method, path, query, host,
//! time and the body's hash. Written here because it is one page over `ring`; the crates for it bring some forty others.

use ring::{digest, hmac};

/// Who asks. Nothing prints the secret.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) access_key: String,
    pub(super) secret_key: String,
    pub(super) session_token: Option<String>,
}

impl Credentials {
    /// Of the file that the AWS tools keep (`~/.aws/credentials`): the section `default`, or what stands before any.
    pub(super) fn parse(text: &str) -> Option<Credentials> {
        let (mut ours, mut access, mut secret, mut token) = (true, None, None, None);
        for line in text.lines().map(str::trim) {
            if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                ours = section.trim() == "default";
            } else if let (true, Some((name, value))) = (ours, line.split_once('=')) {
                let slot = match name.trim() {
                    "aws_access_key_id" => &mut access,
                    "aws_secret_access_key" => &mut secret,
                    "aws_session_token" => &mut token,
                    _ => continue,
                };
                *slot = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            }
        }
        Some(Credentials { access_key: access?, secret_key: secret?, session_token: token })
    }
}

/// What is asked for; path and query as they are, not yet encoded.
pub(super) struct Call<'a> {
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

impl Call<'_> {
    /// What stands in the request line.
    pub(super) fn target(&self) -> String {
        let (path, query) = (encoded(self.path, true), self.encoded_query());
        if query.is_empty() { path } else { format!("{path}?{query}") }
    }

    fn encoded_query(&self) -> String {
        let pair = |(name, value): &(&str, &str)| format!("{}={}", encoded(name, false), encoded(value, false));
        let mut pairs: Vec<String> = self.query.iter().map(pair).collect();
        pairs.sort_unstable();
        pairs.join("&")
    }

    /// The headers that sign it; `time` is `YYYYMMDDThhmmssZ`.
    pub(super) fn sign(&self, who: &Credentials, region: &str, time: &str) -> Vec<(&'static str, String)> {
        let hash = hexadecimal(digest::digest(&digest::SHA256, self.body).as_ref());
        let mut headers = vec![("host", self.host.to_owned()), ("x-amz-content-sha256", hash.clone())];
        headers.push(("x-amz-date", time.to_owned()));
        headers.extend(who.session_token.clone().map(|token| ("x-amz-security-token", token)));
        let listed: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let (path, query) = (encoded(self.path, true), self.encoded_query());
        let request = format!("{}\n{path}\n{query}\n{listed}\n{names}\n{hash}", self.method);
        let day = time.get(..8).unwrap_or(time);
        let scope = format!("{day}/{region}/s3/aws4_request");
        let request_hash = hexadecimal(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{request_hash}");
        let first = format!("AWS4{}", who.secret_key).into_bytes();
        let key = [day, region, "s3", "aws4_request"].iter().fold(first, |key, part| mac(&key, part));
        let signature = hexadecimal(&mac(&key, &text));
        let credential = format!("{}/{scope}", who.access_key);
        let value = format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}");
        headers.push(("authorization", value));
        headers
    }
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Percent-encoding as the signature wants it: everything but RFC 3986's unreserved characters.
fn encoded(text: &str, slash: bool) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) || (slash && *byte == b'/');
    text.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of "Authenticating Requests: Using the Authorization Header" in Amazon S3's API reference.
    #[test]
    fn the_published_examples_have_these_signatures() {
        let who = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            session_token: None,
        };
        let signature = |query: &[(&str, &str)]| {
            let host = "examplebucket.s3.amazonaws.com";
            let call = Call { method: "GET", host, path: "/", query, body: b"" };
            let headers = call.sign(&who, "us-east-1", "20130524T000000Z");
            let (name, value) = headers.last().cloned().expect("headers");
            assert_eq!(name, "authorization");
            value.rsplit_once('=').expect("a signature").1.to_owned()
        };
        let lifecycle = signature(&[("lifecycle", "")]);
        assert_eq!(lifecycle, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
        let list = signature(&[("prefix", "J"), ("max-keys", "2")]);
        assert_eq!(list, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
    }

    #[test]
    fn a_token_is_signed_too() {
        let who = Credentials { access_key: "a".into(), secret_key: "s".into(), session_token: Some("t".into()) };
        let call = Call { method: "PUT", host: "h", path: "/b/k", query: &[], body: b"x" };
        let headers = call.sign(&who, "r", "20130524T000000Z");
        assert!(headers.contains(&("x-amz-security-token", "t".into())));
        assert!(headers.last().expect("headers").1.contains("x-amz-date;x-amz-security-token, "));
    }

    #[test]
    fn targets_are_encoded_and_sorted() {
        let query = [("b", "x/y z"), ("a", "")];
        let call = Call { method: "GET", host: "h", path: "/b/käse~1.txt", query: &query, body: b"" };
        assert_eq!(call.target(), "/b/k%C3%A4se~1.txt?a=&b=x%2Fy%20z");
    }

    #[test]
    fn credentials_are_those_of_the_default_section() {
        let text = "[other]\naws_access_key_id = no\n# words\n[default]\naws_access_key_id = id\n\
                    aws_secret_access_key=a=b\nregion = x\naws_session_token =\n";
        let found = Credentials::parse(text).expect("credentials");
        assert_eq!((found.access_key.as_str(), found.secret_key.as_str()), ("id", "a=b"));
        assert_eq!(found.session_token, None);
        assert!(Credentials::parse("aws_access_key_id = id\naws_secret_access_key = k").is_some());
        assert!(Credentials::parse("[default]\naws_access_key_id = id").is_none());
        assert!(Credentials::parse("[x]\naws_access_key_id = id\naws_secret_access_key = k").is_none());
    }
}
