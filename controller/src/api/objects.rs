//! Shell: requests on resources: from a path, a method and a body to one door of the registry.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::Value;
use tokio::time::Instant;

use super::path::ResourcePath;
use super::query::invalid_options;
use super::table::Include;
use super::watches::{Watching, next_beat};
use super::websocket::{self, Messages};
use super::{Api, Body, Request, answer, body, decode, lists, watches};
use crate::kinds::{Kind, Serving, Subresource};
use crate::object::Object;
use crate::registry::filter::Filter;
use crate::registry::status::{self, Answer, ApiError};
use crate::registry::{Call, DeleteRequest, Deleted, ListRequest, Match, Part, Patch, Target, record};
use crate::schema::FieldError;

/// The longest watch without a wish for another: bounds what a forgotten client holds.
const WATCH_SECONDS: u64 = 30 * 60;

impl Api {
    pub(super) async fn resource(
        self: &Arc<Self>,
        request: &Request,
        body: Body,
        path: ResourcePath,
    ) -> Answer<http::Response<Body>> {
        let kinds = self.registry.kinds();
        let kind = kinds.find(&path.group, &path.version, &path.resource).ok_or_else(ApiError::no_such_path)?.clone();
        let namespace = if kind.namespaced { path.namespace.clone() } else { String::new() };
        if !kind.namespaced && !path.namespace.is_empty() && path.resource != "namespaces" {
            return Err(ApiError::no_such_path());
        }
        let target = Target { kind: kind.clone(), namespace, name: path.name.clone() };
        if !path.name.is_empty() && kind.namespaced && path.namespace.is_empty() {
            return Err(ApiError::no_such_path());
        }
        let deprecated = kind.deprecated.clone();
        let mut response = self.served(request, body, target, &path).await?;
        if !deprecated.is_empty() {
            answer::warn(&mut response, &[deprecated.into_owned()]);
        }
        Ok(response)
    }

    async fn served(
        self: &Arc<Self>,
        request: &Request,
        body: Body,
        target: Target,
        path: &ResourcePath,
    ) -> Answer<http::Response<Body>> {
        let kind = target.kind.clone();
        if let Serving::Answered(review) = kind.serving {
            return self.answered(request, body, target, review).await;
        }
        if !path.subresource.is_empty() {
            let sub = kind.subresource(&path.subresource).ok_or_else(ApiError::no_such_path)?;
            if sub == Subresource::Proxy {
                return self.proxy(request, body, &target, path).await;
            }
            return self.below(request, body, target, sub).await;
        }
        match (&request.method, path.name.is_empty()) {
            (&Method::GET | &Method::HEAD, true) if request.query.flag("watch") => self.watch(request, target).await,
            (&Method::GET | &Method::HEAD, true) => self.list(request, target).await,
            (&Method::GET | &Method::HEAD, false) => self.get(request, &target).await,
            (&Method::POST, true) => self.create(request, body, &target).await,
            (&Method::PUT, false) => self.put(request, body, &target, Part::Whole).await,
            (&Method::PATCH, false) => self.patch(request, body, &target, Part::Whole).await,
            (&Method::DELETE, false) => self.delete(request, body, &target).await,
            (&Method::DELETE, true) => self.delete_collection(request, body, &target).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn now(&self) -> i64 {
        self.registry.now()
    }

    pub(super) async fn get(&self, request: &Request, target: &Target) -> Answer<http::Response<Body>> {
        let form = request.form()?;
        let written = self.registry.get(target, request.query.resource_version()?).await?;
        answer::object(200, form, &target.kind, &written, request.include(), self.now())
    }

    async fn list(self: &Arc<Self>, request: &Request, target: Target) -> Answer<http::Response<Body>> {
        let form = request.form()?;
        let list = request.list_request(&target)?;
        let lister = self.registry.list(&target, list).await?;
        lists::respond(lister, target.kind, form, request.include(), self.now()).await
    }

    async fn watch(self: &Arc<Self>, request: &Request, target: Target) -> Answer<http::Response<Body>> {
        let form = request.form()?;
        let mut list = request.list_request(&target)?;
        let filter = list.filter.clone();
        let asked = list.revision.unwrap_or_default();
        let initial_events = request.initial_events(list.matching)?;
        let (initial, page, from) = if initial_events == Some(true) || (initial_events.is_none() && asked == 0) {
            (list.limit, list.matching) = (0, Match::NotOlderThan);
            let mut lister = self.registry.list(&target, list).await?;
            let page = lister.next().await?;
            let from = lister.revision();
            (Some(lister), page, from)
        } else if asked == 0 {
            (None, None, self.registry.store().revision().0)
        } else {
            (None, None, asked)
        };
        let watcher = match self.registry.watch(&target, filter, from).await {
            Ok(watcher) => watcher,
            Err(error) if error.code == 410 => return Ok(watches::refuse(&error)),
            Err(error) => return Err(error),
        };
        let start = Instant::now();
        let seconds = request.query.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
        let lasting = Duration::from_secs(seconds.filter(|seconds| *seconds > 0).unwrap_or(WATCH_SECONDS));
        let response = watches::respond(Watching {
            initial,
            watcher,
            kind: target.kind,
            form,
            include: request.include(),
            bookmarks: request.query.flag("allowWatchBookmarks"),
            initial_end: initial_events == Some(true) && request.query.flag("allowWatchBookmarks"),
            deadline: start + lasting,
            page,
            now: self.clock,
            told: from,
            next_bookmark: next_beat(start),
        });
        websocket::told(request, response, Messages::Lines)
    }

    async fn create(&self, request: &Request, body: Body, target: &Target) -> Answer<http::Response<Body>> {
        let (form, include) = (request.form()?, request.include());
        let mut call = request.call()?;
        let object = request.object(body, &target.kind, &mut call).await?;
        if target.kind.namespaced && target.namespace.is_empty() {
            let why = "an empty namespace may not be set during creation";
            return Err(ApiError::bad_request(why));
        }
        let written = self.registry.create(&mut call, target, object).await?;
        let mut response = answer::object(201, form, &target.kind, &written, include, self.now())?;
        answer::warn(&mut response, &call.warnings);
        Ok(response)
    }

    pub(super) async fn put(
        &self,
        request: &Request,
        body: Body,
        target: &Target,
        part: Part,
    ) -> Answer<http::Response<Body>> {
        let form = request.form()?;
        let mut call = request.call()?;
        let object = request.object(body, &target.kind, &mut call).await?;
        let written = self.registry.update(&mut call, target, part, object).await?;
        let mut response = answer::written(request, form, &target.kind, &written, self.now())?;
        answer::warn(&mut response, &call.warnings);
        Ok(response)
    }

    pub(super) async fn patch(
        &self,
        request: &Request,
        body: Body,
        target: &Target,
        part: Part,
    ) -> Answer<http::Response<Body>> {
        let form = request.form()?;
        let mut call = request.call()?;
        call.force = request.query.flag("force");
        let patch = request.patch(body).await?;
        let written = self.registry.patch(&mut call, target, part, &patch).await?;
        let mut response = answer::written(request, form, &target.kind, &written, self.now())?;
        answer::warn(&mut response, &call.warnings);
        Ok(response)
    }

    pub(super) async fn delete(&self, request: &Request, body: Body, target: &Target) -> Answer<http::Response<Body>> {
        let (form, include) = (request.form()?, request.include());
        let mut call = request.call()?;
        let (options, dry_run) = request.delete_request(body).await?;
        call.dry_run |= dry_run;
        let deleted = self.registry.delete(&mut call, target, &options).await?;
        match deleted {
            Deleted::Waiting(written) => answer::object(200, form, &target.kind, &written, include, self.now()),
            Deleted::Gone(written) if target.kind.strategy.returns_deleted => {
                answer::object(200, form, &target.kind, &written, include, self.now())
            }
            Deleted::Gone(written) => {
                let object = record::decode(&written.value, written.revision).map_err(ApiError::internal)?;
                Ok(answer::value(200, form, &status::deleted(&target.kind, object.name(), object.uid())))
            }
        }
    }

    async fn delete_collection(
        self: &Arc<Self>,
        request: &Request,
        body: Body,
        target: &Target,
    ) -> Answer<http::Response<Body>> {
        let form = request.form()?;
        let mut call = request.call()?;
        let list = request.list_request(target)?;
        let (options, dry_run) = request.delete_request(body).await?;
        call.dry_run |= dry_run;
        self.registry.delete_collection(&mut call, target, list, &options).await?;
        Ok(answer::value(200, form, &status::deleted(&target.kind, "", "")))
    }
}

impl Request {
    pub(super) fn include(&self) -> Include {
        Include::parse(self.query.text("includeObject"))
    }

    pub(super) fn content_type(&self) -> &str {
        self.header(http::header::CONTENT_TYPE)
    }

    /// Who writes, and how.
    pub(super) fn call(&self) -> Answer<Call> {
        let options = match self.method {
            Method::POST => "CreateOptions",
            Method::PUT => "UpdateOptions",
            Method::PATCH => "PatchOptions",
            _ => "DeleteOptions",
        };
        Ok(Call {
            identity: self.identity.clone(),
            dry_run: self.query.dry_run(options)?,
            field_manager: self.query.field_manager(options, self.header(http::header::USER_AGENT))?,
            force: false,
            applies: false,
            field_validation: self.query.field_validation(options)?,
            duplicates: Vec::new(),
            body: bytes::Bytes::new(),
            warnings: Vec::new(),
        })
    }

    /// The object in the body.
    pub(super) async fn object(&self, body: Body, kind: &Kind, call: &mut Call) -> Answer<Object> {
        let bytes = body::read(body).await?;
        let (object, duplicates) = decode::object(self.content_type(), &bytes, kind)?;
        (call.duplicates, call.body) = (duplicates, bytes);
        Ok(object)
    }

    pub(super) async fn patch(&self, body: Body) -> Answer<Patch> {
        let content_type = decode::media(self.content_type()).to_owned();
        if content_type == "application/apply-patch+yaml" && self.query.text("fieldManager").is_empty() {
            let why = FieldError::required("fieldManager", "is required for apply patch");
            return Err(invalid_options("PatchOptions", why));
        }
        if content_type != "application/apply-patch+yaml" && self.query.has("force") {
            let why = FieldError::forbidden("force", "may not be specified for non-apply patch");
            return Err(invalid_options("PatchOptions", why));
        }
        let bytes = body::read(body).await?;
        // Fields that nobody knows are looked for in a reading of its own.
        let doing = if self.query.text("fieldValidation") == "Ignore" { "" } else { "error decoding patch: " };
        match content_type.as_str() {
            "application/json-patch+json" => decode::json_patch(&bytes, doing).map(Patch::Json),
            "application/merge-patch+json" => decode::json_patch(&bytes, doing).map(Patch::Merge),
            "application/strategic-merge-patch+json" => decode::json_patch(&bytes, "").map(Patch::Strategic),
            "application/apply-patch+yaml" => decode::yaml_patch(&bytes).map(Patch::Apply),
            _ => Err(ApiError::unsupported_media_type(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
                "application/apply-patch+yaml",
            ])),
        }
    }

    /// `DeleteOptions` of the query and the body, and its dryRun.
    pub(super) async fn delete_request(&self, body: Body) -> Answer<(DeleteRequest, bool)> {
        let mut found = DeleteRequest {
            grace_period_seconds: self.query.number("gracePeriodSeconds")?,
            propagation_policy: self.query.text("propagationPolicy").to_owned(),
            ..DeleteRequest::default()
        };
        if self.query.flag("orphanDependents") {
            found.propagation_policy = "Orphan".to_owned();
        }
        let bytes = body::read(body).await?;
        if bytes.is_empty() {
            return Ok((found, false));
        }
        let options = decode::value(self.content_type(), &bytes, Some(("v1", "DeleteOptions")))?.value;
        let dry_run = fill_delete_request(&mut found, &options)?;
        Ok((found, dry_run))
    }

    /// What a list or a watch asks for.
    fn list_request(&self, target: &Target) -> Answer<ListRequest> {
        let query = &self.query;
        let filter = Filter::parse(&target.kind, query.text("labelSelector"), query.text("fieldSelector"))?;
        let limit = query.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or_default();
        let continue_token = query.text("continue").to_owned();
        let revision = query.resource_version()?;
        if !continue_token.is_empty() && revision.is_some_and(|revision| revision > 0) {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        let matching = query.matching()?;
        Ok(ListRequest { filter, revision, matching, limit, continue_token })
    }

    /// `sendInitialEvents`, and whether the rest of the watch goes with it.
    fn initial_events(&self, matching: Match) -> Answer<Option<bool>> {
        let forbidden = |field: &str, why: &str| Err(invalid_options("ListOptions", FieldError::forbidden(field, why)));
        if !self.query.has("sendInitialEvents") {
            if matching != Match::Unset {
                return forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            }
            return Ok(None);
        }
        if matching != Match::NotOlderThan {
            return forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
        }
        Ok(Some(self.query.flag("sendInitialEvents")))
    }
}

/// Reads a `DeleteOptions`; returns its dryRun.
pub(super) fn fill_delete_request(found: &mut DeleteRequest, options: &Value) -> Answer<bool> {
    let kind = options["kind"].as_str().unwrap_or_default();
    if !["", "DeleteOptions"].contains(&kind) {
        return Err(ApiError::bad_request("decoded object cannot be converted to DeleteOptions"));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if let Some(seconds) = options["gracePeriodSeconds"].as_i64() {
        found.grace_period_seconds = Some(seconds);
    }
    if let Some(policy) = options["propagationPolicy"].as_str() {
        if !["Orphan", "Background", "Foreground"].contains(&policy) {
            let known = ["Background", "Foreground", "Orphan"];
            return Err(invalid_options(
                "DeleteOptions",
                FieldError::not_supported("propagationPolicy", policy, &known),
            ));
        }
        policy.clone_into(&mut found.propagation_policy);
    }
    if options["orphanDependents"] == true {
        found.propagation_policy = "Orphan".to_owned();
    }
    found.uid = text(&options["preconditions"]["uid"]);
    found.resource_version = text(&options["preconditions"]["resourceVersion"]);
    Ok(options["dryRun"].as_array().is_some_and(|all| all.iter().any(|one| one == "All")))
}
