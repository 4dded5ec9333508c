//! Pure: what a plugin answered.

use std::net::IpAddr;

use serde_json::{Value, json};

/// Reads the answer of an ADD. A plugin that changes nothing may answer with nothing: then what was before it holds.
///
/// # Errors
/// A sentence for the user.
pub(super) fn parse(stdout: &[u8], previous: Option<&Value>, version: &str) -> Result<Value, String> {
    if stdout.trim_ascii().is_empty()
        && let Some(previous) = previous
    {
        return Ok(previous.clone());
    }
    let mut result: Value =
        serde_json::from_slice(stdout).map_err(|error| format!("its result is no JSON: {error}"))?;
    let object = result.as_object_mut().ok_or("its result is no JSON object")?;
    object.entry("cniVersion").or_insert_with(|| json!(version));
    Ok(result)
}

/// The addresses that a result gives the pod's interface, IPv4 first as upstream's runtimes have them.
pub(super) fn addresses(result: &Value, interface: &str) -> Vec<IpAddr> {
    let interfaces = result["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    let in_pod = |one: &Value| one["name"] == interface && one["sandbox"].as_str().is_some_and(|path| !path.is_empty());
    let is_pods = |ip: &&Value| match ip["interface"].as_u64() {
        Some(place) => usize::try_from(place).ok().and_then(|place| interfaces.get(place)).is_some_and(in_pod),
        None => true,
    };
    let of_list = result["ips"].as_array().into_iter().flatten().filter(is_pods).map(|ip| &ip["address"]);
    // The form before 0.3.0.
    let of_old = [&result["ip4"]["ip"], &result["ip6"]["ip"]];
    let texts = of_list.chain(of_old).filter_map(Value::as_str);
    let mut found: Vec<IpAddr> = Vec::new();
    for ip in texts.filter_map(|text| text.split('/').next()?.parse().ok()) {
        if !found.contains(&ip) {
            found.push(ip);
        }
    }
    found.sort_by_key(IpAddr::is_ipv6);
    found
}

/// What a plugin that failed says of it: on standard output, in the specification's form, or else whatever it wrote.
pub(super) fn complaint(stdout: &[u8], stderr: &[u8], status: &str) -> String {
    let said: Option<Value> = serde_json::from_slice(stdout).ok();
    let text = |name: &str| said.as_ref().and_then(|said| said[name].as_str()).filter(|text| !text.is_empty());
    match (text("msg"), text("details")) {
        (Some(message), Some(details)) => format!("{message}; {details}"),
        (Some(message), None) => message.to_owned(),
        (None, Some(details)) => details.to_owned(),
        (None, None) => {
            let written = String::from_utf8_lossy(stderr);
            let written = written.trim();
            if written.is_empty() { status.to_owned() } else { format!("{status}: {written}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_pods_own_interface_count() {
        let result = json!({"cniVersion": "1.0.0",
            "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
            "ips": [{"address": "fd00::5/64", "interface": 1}, {"address": "10.9.0.5/24", "interface": 1},
                    {"address": "10.9.0.1/24", "interface": 0}, {"address": "rubbish", "interface": 1},
                    {"address": "10.9.0.6/24", "interface": 7}]});
        let found: Vec<String> = addresses(&result, "eth0").iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.9.0.5", "fd00::5"]);
        let plain = json!({"ips": [{"version": "4", "address": "10.9.0.7/24"}]});
        assert_eq!(addresses(&plain, "eth0"), [IpAddr::from([10, 9, 0, 7])]);
        let old = json!({"ip4": {"ip": "10.9.0.8/24"}});
        assert_eq!(addresses(&old, "eth0"), [IpAddr::from([10, 9, 0, 8])]);
        assert!(addresses(&json!([]), "eth0").is_empty());
    }

    #[test]
    fn an_empty_answer_hands_on_what_was_before() {
        let before = json!({"ips": []});
        assert_eq!(parse(b"\n", Some(&before), "1.0.0").unwrap(), before);
        assert!(parse(b"", None, "1.0.0").is_err());
        assert_eq!(parse(b"{}", None, "1.0.0").unwrap()["cniVersion"], "1.0.0");
        assert!(parse(b"[]", None, "1.0.0").is_err());
    }

    #[test]
    fn what_went_wrong_is_told_in_the_plugins_words() {
        let said = br#"{"code": 11, "msg": "no room", "details": "10.9.0.0/24"}"#;
        assert_eq!(complaint(said, b"noise", "exit status: 1"), "no room; 10.9.0.0/24");
        assert_eq!(complaint(b"", b" panic \n", "exit status: 2"), "exit status: 2: panic");
        assert_eq!(complaint(b"{}", b"", "signal: 9"), "signal: 9");
    }
}
