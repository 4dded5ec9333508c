//! Shell: `bramble certificate`: the keys and certificates of the running controller, looked at and made anew.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{CertificateVerb, Options, admin};

const CERTIFICATES: &str = "/bramble/v1/certificates";

pub(crate) fn certificate(verb: CertificateVerb, options: &Options) -> anyhow::Result<ExitCode> {
    let described = admin::block_on(async {
        let link = admin::link(&options.data_dir)?;
        let renew = match verb {
            CertificateVerb::Check => return Ok(link.get(CERTIFICATES).await?),
            CertificateVerb::Rotate => "rotate",
            CertificateVerb::RotateCa => "rotate-ca",
            CertificateVerb::RetireCa => "retire-ca",
        };
        Ok(link.create(&format!("{CERTIFICATES}/{renew}"), &json!({})).await?)
    })?;
    print!("{}", table(&described));
    if let Some(next) = next(verb) {
        eprintln!("bramble: {next}");
    }
    Ok(ExitCode::SUCCESS)
}

fn next(verb: CertificateVerb) -> Option<&'static str> {
    match verb {
        CertificateVerb::Check => None,
        CertificateVerb::Rotate => Some(
            "the controller's certificates and its kubeconfig are new; tokens of the former service-account keys still hold",
        ),
        CertificateVerb::RotateCa => Some(
            "boards that are awake trust the new authority within a minute, the others when they come; give people the new \
             admin.kubeconfig, then shut the former authority out with `bramble certificate retire-ca`",
        ),
        CertificateVerb::RetireCa => Some(
            "certificates of the former authorities are worth nothing from now on, but that a board may renew its own with \
             the key that it has",
        ),
    }
}

fn table(described: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut lines = vec![format!("{:<22} {:<22} {:<10} KEY", "WHAT", "UNTIL", "STATE")];
    let authorities = described["authorities"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, one) in authorities.iter().enumerate() {
        let state = match (index, one["trusted"].as_bool()) {
            (0, _) => "signs",
            (_, Some(true)) => "trusted",
            _ => "retired",
        };
        lines.push(format!("{:<22} {:<22} {state:<10} {}", "authority", text(&one["notAfter"]), text(&one["pin"])));
    }
    lines.push(format!(
        "{:<22} {:<22} {:<10} -",
        "serving certificate",
        text(&described["serving"]["notAfter"]),
        "used"
    ));
    for (index, key) in described["serviceAccountKeys"].as_array().into_iter().flatten().enumerate() {
        let state = if index == 0 { "signs" } else { "verifies" };
        lines.push(format!("{:<22} {:<22} {state:<10} {}", "service-account key", "-", text(key)));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_what_signs() {
        let described = json!({
            "authorities": [{"pin": "sha256:bb", "notAfter": "2076-01-01T00:00:00Z", "trusted": true},
                {"pin": "sha256:aa", "notAfter": "2075-01-01T00:00:00Z", "trusted": false}],
            "serving": {"notAfter": "2036-01-01T00:00:00Z"}, "serviceAccountKeys": ["two", "one"],
        });
        let told = table(&described);
        let states: Vec<&str> = told.lines().skip(1).filter_map(|line| line[46..].split_whitespace().next()).collect();
        assert_eq!(states, ["signs", "retired", "used", "signs", "verifies"]);
        assert!(told.ends_with("one\n"));
    }
}
