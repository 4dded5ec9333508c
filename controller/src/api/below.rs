//! Shell: what lies below an object: status and its kin, scale, binding, eviction, token.

use http::Method;
use serde_json::{Value, json};

use super::objects::fill_delete_request;
use super::{Api, Body, Request, answer};
use crate::authn::answer as refusal;
use crate::kinds::{Kind, Subresource};
use crate::object::{Object, time};
use crate::registry::status::{Answer, ApiError};
use crate::registry::{Applying, Binding, Call, DeleteRequest, Part, Target};
use crate::schema::FieldError;

impl Api {
    pub(super) async fn below(
        &self,
        request: &Request,
        body: Body,
        target: Target,
        sub: Subresource,
    ) -> Answer<http::Response<Body>> {
        let part = match sub {
            Subresource::Status => Part::Status,
            Subresource::Finalize => Part::Finalize,
            Subresource::Approval => Part::Approval,
            Subresource::EphemeralContainers => Part::EphemeralContainers,
            Subresource::Resize => Part::Resize,
            Subresource::Scale => return self.scale(request, body, &target).await,
            Subresource::Binding if request.method == Method::POST => return self.bind(request, body, &target).await,
            Subresource::Eviction if request.method == Method::POST => return self.evict(request, body, &target).await,
            Subresource::Token if request.method == Method::POST => return self.token(request, body, &target).await,
            Subresource::Log | Subresource::Exec | Subresource::Attach | Subresource::PortForward => {
                return self.at_kubelet(request, body, &target, sub).await;
            }
            _ => return Err(ApiError::method_not_allowed()),
        };
        match request.method {
            Method::GET | Method::HEAD => self.get(request, &target).await,
            Method::PUT => self.put(request, body, &target, part).await,
            Method::PATCH => self.patch(request, body, &target, part).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    async fn scale(&self, request: &Request, body: Body, target: &Target) -> Answer<http::Response<Body>> {
        let form = request.form()?;
        let kind = Kind::new("autoscaling", "v1", "Scale", "scales");
        let scale = match request.method {
            Method::GET | Method::HEAD => self.registry.scale(target).await?,
            Method::PUT => {
                let mut call = request.call()?;
                let scale = request.object(body, &kind, &mut call).await?;
                self.registry.rescale(&mut call, target, |_, _| Ok(scale.clone())).await?
            }
            Method::PATCH => {
                let mut call = request.call()?;
                call.force = request.query.flag("force");
                let patch = request.patch(body).await?;
                let now = time::format(self.registry.now());
                let make = |scale: &Object, call: &Call| {
                    patch.apply(&kind, Some(scale), &Applying { call, part: Part::Scale, now: &now })
                };
                self.registry.rescale(&mut call, target, make).await?
            }
            _ => return Err(ApiError::method_not_allowed()),
        };
        Ok(answer::value(200, form, &scale.into_value()))
    }

    pub(super) async fn bind(&self, request: &Request, body: Body, target: &Target) -> Answer<http::Response<Body>> {
        let form = request.form()?;
        let mut call = request.call()?;
        let kind = Kind::new("", "v1", "Binding", "bindings");
        let body = request.object(body, &kind, &mut call).await?;
        let node_kind = body.text(&["target", "kind"]);
        if !["", "Node"].contains(&node_kind) || body.text(&["target", "name"]).is_empty() {
            let wrong = if node_kind == "Node" || node_kind.is_empty() {
                FieldError::required("target.name", "")
            } else {
                FieldError::not_supported("target.kind", node_kind, &["Node", "<empty>"])
            };
            return Err(ApiError::invalid(&kind, &target.name, &[wrong]));
        }
        let name = if target.name.is_empty() { body.name().to_owned() } else { target.name.clone() };
        let pods = self.registry.kinds().find("", "v1", "pods").cloned().ok_or_else(ApiError::no_such_path)?;
        let pod = Target { kind: pods, name, ..target.clone() };
        let binding = Binding {
            node: body.text(&["target", "name"]).to_owned(),
            annotations: body.annotations().cloned().unwrap_or_default(),
            uid: body.uid().to_owned(),
        };
        self.registry.bind(&mut call, &pod, &binding).await?;
        Ok(answer::value(201, form, &success()))
    }

    async fn evict(&self, request: &Request, body: Body, target: &Target) -> Answer<http::Response<Body>> {
        let form = request.form()?;
        let mut call = request.call()?;
        let kind = Kind::new("policy", "v1", "Eviction", "evictions");
        let eviction = request.object(body, &kind, &mut call).await?;
        if !eviction.name().is_empty() && eviction.name() != target.name {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        let mut options = DeleteRequest::default();
        if let Some(given) = eviction.get(&["deleteOptions"]) {
            call.dry_run |= fill_delete_request(&mut options, given)?;
        }
        self.registry.evict(&mut call, target, &options).await?;
        Ok(answer::value(201, form, &success()))
    }

    async fn token(&self, request: &Request, body: Body, target: &Target) -> Answer<http::Response<Body>> {
        let form = request.form()?;
        let mut call = request.call()?;
        let kind = Kind::new("authentication.k8s.io", "v1", "TokenRequest", "tokenrequests");
        let asked = request.object(body, &kind, &mut call).await?;
        self.registry.admit_token(&call, target, &asked).await?;
        let authenticator = self.authenticator.as_ref().ok_or_else(ApiError::no_such_path)?;
        let asked = asked.into_value();
        let issued = authenticator.issue_token(&target.namespace, &target.name, &asked).await;
        let issued = issued.map_err(|error| refusal::token(&error))?;
        Ok(answer::value(201, form, &issued))
    }
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}
