//! Pure: health, version and metrics.

use std::sync::Mutex;

use serde_json::json;

use super::query::Query;
use super::{Api, Body, Request, answer};
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

/// Answers what is no API resource.
pub(super) fn answer(api: &Api, request: &Request) -> Answer<http::Response<Body>> {
    let (path, query) = (request.path.as_str(), &request.query);
    match path.trim_end_matches('/') {
        "/version" => {
            let version = json!({"major": "1", "minor": "35", "gitVersion": GIT_VERSION, "gitCommit": "",
                "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
                "platform": format!("linux/{}", go_architecture())});
            Ok(answer::response(200, "application/json", format!("{version:#}")))
        }
        "/healthz" | "/livez" => Ok(report(path, &[("ping", true)], query)),
        "/readyz" => Ok(report(path, &[vec![("ping", true)], api.readiness.all()].concat(), query)),
        "/metrics" => Ok(answer::response(200, "text/plain; version=0.0.4", metrics(api))),
        "/openid/v1/jwks" => match &api.authenticator {
            Some(authenticator) => {
                Ok(answer::response(200, "application/jwk-set+json", authenticator.tokens().jwks().to_string()))
            }
            None => Err(ApiError::no_such_path()),
        },
        "/.well-known/openid-configuration" => match &api.authenticator {
            Some(authenticator) => {
                let document = authenticator.tokens().discovery(api.advertised);
                Ok(answer::response(200, "application/json", document.to_string()))
            }
            None => Err(ApiError::no_such_path()),
        },
        "/openapi/v2" if request.header(http::header::ACCEPT).contains("protobuf") => {
            let document = super::openapi::v2_protobuf(&api.registry.kinds());
            Ok(answer::response(200, crate::schema::openapi::v2::CONTENT_TYPE, document))
        }
        "/openapi/v2" => Ok(answer::response(200, "application/json", super::openapi::v2_json().to_string())),
        "/openapi/v3" => {
            let index = super::openapi::index(&api.registry.kinds());
            Ok(answer::response(200, "application/json", index.to_string()))
        }
        other if other.starts_with("/openapi/v3/") => {
            let path = other.trim_start_matches("/openapi/v3/");
            Ok(answer::response(200, "application/json", super::openapi::document(&api.registry.kinds(), path)?))
        }
        "" => {
            let kinds = api.registry.kinds();
            let groups = kinds.groups().into_iter().flat_map(|(group, versions)| {
                versions.into_iter().map(move |version| match group {
                    "" => format!("/api/{version}"),
                    _ => format!("/apis/{group}/{version}"),
                })
            });
            let mut paths: Vec<String> = groups.collect();
            paths.extend(
                [
                    "/api",
                    "/apis",
                    "/healthz",
                    "/livez",
                    "/metrics",
                    "/openapi/v2",
                    "/openapi/v3",
                    "/readyz",
                    "/version",
                ]
                .map(str::to_owned),
            );
            paths.sort();
            Ok(answer::response(200, "application/json", json!({"paths": paths}).to_string()))
        }
        _ => Err(ApiError::no_such_path()),
    }
}

fn report(path: &str, checks: &[(&'static str, bool)], query: &Query) -> http::Response<Body> {
    let ready = checks.iter().all(|(_, ready)| *ready);
    let name = path.trim_matches('/');
    let verdict = if ready { "passed" } else { "failed" };
    let mut text = String::new();
    for (check, ready) in checks {
        text += &if *ready { format!("[+]{check} ok\n") } else { format!("[-]{check} failed: reason withheld\n") };
    }
    text += &format!("{name} check {verdict}\n");
    if ready && !query.has("verbose") {
        text = "ok".to_owned();
    }
    answer::response(if ready { 200 } else { 500 }, "text/plain; charset=utf-8", text)
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
