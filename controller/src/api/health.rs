//! Pure: health, version and metrics.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::query::Query;
use super::{Api, Body, Request, answer};
use crate::kinds::Kinds;
use crate::registry::status::{Answer, ApiError};

/// The version that clients are told: the Kubernetes release whose API is spoken.
const GIT_VERSION: &str = "v1.35.0+bramble";

/// The checks behind `/readyz`; a check that was never set is not asked.
#[derive(Debug, Default)]
pub struct Readiness {
    checks: Mutex<Vec<(&'static str, bool)>>,
}

impl Readiness {
    /// Sets a check.
    pub fn set(&self, name: &'static str, ready: bool) {
        let mut checks = self.checks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match checks.iter_mut().find(|(own, _)| *own == name) {
            Some(check) => check.1 = ready,
            None => checks.push((name, ready)),
        }
    }

    fn all(&self) -> Vec<(&'static str, bool)> {
        self.checks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// Beside the groups' own, the paths that `/` names.
const PATHS: [&str; 9] =
    ["/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"];

/// Answers what is no API resource.
pub(super) fn answer(api: &Api, request: &Request) -> Answer<http::Response<Body>> {
    let json = |document: Value| Ok(answer::response(200, "application/json", document.to_string()));
    let kinds = || api.registry.kinds();
    let tokens = || Ok(api.authenticator.as_ref().ok_or_else(ApiError::no_such_path)?.tokens());
    match request.path.trim_end_matches('/') {
        "" => json(json!({"paths": paths(&kinds())})),
        "/version" => Ok(answer::response(200, "application/json", format!("{:#}", version()))),
        "/metrics" => Ok(answer::response(200, "text/plain; version=0.0.4", metrics(api))),
        "/openid/v1/jwks" => Ok(answer::response(200, "application/jwk-set+json", tokens()?.jwks().to_string())),
        "/.well-known/openid-configuration" => json(tokens()?.discovery(api.advertised)),
        "/openapi/v2" if request.header(http::header::ACCEPT).contains("protobuf") => {
            let document = super::openapi::v2_protobuf(&kinds());
            Ok(answer::response(200, crate::schema::openapi::v2::CONTENT_TYPE, document))
        }
        "/openapi/v2" => json(super::openapi::v2_json()),
        "/openapi/v3" => json(super::openapi::index(&kinds())),
        other => match (other.strip_prefix("/openapi/v3/"), place_of(other)) {
            (Some(path), _) => Ok(answer::response(200, "application/json", super::openapi::document(&kinds(), path)?)),
            (None, Some((place, check))) => health(api, place, check, &request.query),
            (None, None) => Err(ApiError::no_such_path()),
        },
    }
}

fn version() -> Value {
    json!({"major": "1", "minor": "35", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("linux/{}", go_architecture())})
}

fn paths(kinds: &Kinds) -> Vec<String> {
    let of_groups = kinds.groups().into_iter().flat_map(|(group, versions)| {
        versions.into_iter().map(move |version| match group {
            "" => format!("/api/{version}"),
            _ => format!("/apis/{group}/{version}"),
        })
    });
    let mut paths: Vec<String> = of_groups.chain(PATHS.map(str::to_owned)).collect();
    paths.sort();
    paths
}

/// All checks of a place, or one.
fn health(api: &Api, place: &str, check: Option<&str>, query: &Query) -> Answer<http::Response<Body>> {
    let mut checks = vec![("ping", true)];
    if place == "readyz" {
        checks.extend(api.readiness.all());
    }
    let Some(check) = check else { return Ok(report(place, &checks, query)) };
    let (_, passes) = checks.into_iter().find(|(own, _)| *own == check).ok_or_else(ApiError::no_such_path)?;
    Ok(report_one(passes))
}

/// `/readyz` or one check of it, `/readyz/ping`.
fn place_of(path: &str) -> Option<(&str, Option<&str>)> {
    let path = path.strip_prefix('/')?;
    let (place, check) = path.split_once('/').map_or((path, None), |(place, check)| (place, Some(check)));
    matches!(place, "healthz" | "livez" | "readyz").then_some((place, check))
}

fn report(place: &str, checks: &[(&'static str, bool)], query: &Query) -> http::Response<Body> {
    let mut excluded = query.all("exclude");
    let mut text = String::new();
    let mut failed = false;
    for (check, passes) in checks {
        if let Some(at) = excluded.iter().position(|name| name == check) {
            excluded.remove(at);
            text += &format!("[+]{check} excluded: ok\n");
        } else if *passes {
            text += &format!("[+]{check} ok\n");
        } else {
            failed = true;
            text += &format!("[-]{check} failed: reason withheld\n");
        }
    }
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        text += &format!("warn: some health checks cannot be excluded: no matches for {}\n", names.join(","));
    }
    text += &format!("{place} check {}\n", if failed { "failed" } else { "passed" });
    if !failed && !query.has("verbose") {
        text = "ok".to_owned();
    }
    plain(if failed { 500 } else { 200 }, text)
}

fn report_one(passes: bool) -> http::Response<Body> {
    if passes { plain(200, "ok".to_owned()) } else { plain(500, "internal server error: not ready\n".to_owned()) }
}

fn plain(code: u16, text: String) -> http::Response<Body> {
    let mut response = answer::response(code, "text/plain; charset=utf-8", text);
    let nosniff = http::HeaderValue::from_static("nosniff");
    response.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

fn metrics(api: &Api) -> String {
    format!(
        "# HELP bramble_store_revision The last published revision.\n# TYPE bramble_store_revision counter\n\
         bramble_store_revision {}\n",
        api.registry.store().revision().0
    )
}

fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn text(response: http::Response<Body>) -> (u16, String) {
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn checks_are_told_one_by_one() {
        assert_eq!(place_of("/readyz/poststarthook/a"), Some(("readyz", Some("poststarthook/a"))));
        assert_eq!(place_of("/livez"), Some(("livez", None)));
        assert_eq!(place_of("/version"), None);
        let checks = [("ping", true), ("store", false)];
        let of = |query: &str| report("readyz", &checks, &Query::parse(query));
        let failed = "[+]ping ok\n[-]store failed: reason withheld\nreadyz check failed\n";
        assert_eq!(text(of("")).await, (500, failed.to_owned()));
        assert_eq!(text(of("exclude=store")).await, (200, "ok".to_owned()));
        let told = "[+]ping ok\n[+]store excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"x\"\n\
                    readyz check passed\n";
        assert_eq!(text(of("verbose&exclude=store&exclude=x")).await, (200, told.to_owned()));
    }
}
