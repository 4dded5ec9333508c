//! Shell: kinds that are answered on the spot: who am I, what may I, who is this token.

use http::Method;

use super::{Api, Body, Request, answer, negotiate};
use crate::authn::answer as refusal;
use crate::authz::review;
use crate::kinds::Review;
use crate::registry::Target;
use crate::registry::status::{Answer, ApiError};

impl Api {
    pub(super) async fn answered(
        &self,
        request: &Request,
        body: Body,
        target: Target,
        which: Review,
    ) -> Answer<http::Response<Body>> {
        if request.method != Method::POST || !target.name.is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        if which == Review::Binding {
            return self.bind(request, body, &target).await;
        }
        let form = negotiate::form(request.header(http::header::ACCEPT), false)?;
        let mut call = request.call()?;
        let mut asked = request.object(body, &target.kind, &mut call).await?;
        asked.set(&["apiVersion"], target.kind.api_version());
        asked.set(&["kind"], target.kind.kind.as_ref());
        let asked = asked.into_value();
        let answered = if which == Review::Token {
            let authenticator = self.authenticator.as_ref().ok_or_else(ApiError::no_such_path)?;
            authenticator.review(&asked).await
        } else {
            review::evaluate(&self.authorizer, &request.identity, &target.kind.plural, &asked)
        };
        let answered = answered.map_err(|problem| refusal::review(&target.kind, &problem))?;
        Ok(answer::value(201, form, &answered))
    }
}
