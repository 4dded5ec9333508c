//! Pure: which form of an answer a client accepts.

use crate::registry::status::{Answer, ApiError};

/// The bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Media {
    #[default]
    Json,
    Yaml,
}

/// The shape of the objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The objects themselves.
    #[default]
    Whole,
    /// A meta.k8s.io Table of that version.
    Table(&'static str),
    /// Only metadata.
    Partial(&'static str),
}

/// What to answer with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) media: Media,
    pub(crate) shape: Shape,
}

/// What the server can write.
const ACCEPTED: [&str; 2] = ["application/json", "application/yaml"];

impl Form {
    /// The `Content-Type` of an answer in this form.
    pub(crate) fn content_type(self) -> &'static str {
        match self.media {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
        }
    }
}

/// One clause of an Accept header: a media type and its parameters, with the client's preference.
pub(crate) struct Clause<'a> {
    pub(crate) media: &'a str,
    pub(crate) parameters: Vec<(&'a str, &'a str)>,
    weight: f32,
}

impl<'a> Clause<'a> {
    pub(crate) fn parameter(&self, name: &str) -> &'a str {
        self.parameters.iter().find(|(own, _)| *own == name).map(|(_, value)| *value).unwrap_or_default()
    }
}

/// The clauses of an Accept header, the most wanted first.
pub(crate) fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = accept
        .split(',')
        .map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
            let weight =
                parameters.iter().find(|(name, _)| *name == "q").and_then(|(_, q)| q.parse().ok()).unwrap_or(1.0);
            Clause { media, parameters, weight }
        })
        .filter(|clause| !clause.media.is_empty())
        .collect();
    clauses.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    clauses
}

/// The first form that the client accepts and the server has; `shaped` allows tables and partial metadata.
pub(crate) fn form(accept: &str, shaped: bool) -> Answer<Form> {
    if accept.trim().is_empty() {
        return Ok(Form::default());
    }
    for clause in clauses(accept) {
        let media = match clause.media {
            "application/json" | "*/*" | "application/*" => Media::Json,
            "application/yaml" => Media::Yaml,
            _ => continue,
        };
        let group = clause.parameter("g");
        let version = match clause.parameter("v") {
            "v1" => "v1",
            "v1beta1" => "v1beta1",
            _ => "",
        };
        let shape = match clause.parameter("as") {
            "" => Shape::Whole,
            _ if !shaped || group != "meta.k8s.io" || version.is_empty() => continue,
            "Table" => Shape::Table(version),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Shape::Partial(version),
            _ => continue,
        };
        return Ok(Form { media, shape });
    }
    Err(ApiError::not_acceptable(&ACCEPTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectls_tables() {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(accept, true).unwrap().shape, Shape::Table("v1"));
        assert_eq!(form(accept, false).unwrap().shape, Shape::Whole);
        let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(form(partial, true).unwrap().shape, Shape::Partial("v1"));
    }

    #[test]
    fn protobuf_falls_back_to_json() {
        assert_eq!(form("application/vnd.kubernetes.protobuf,application/json", true).unwrap(), Form::default());
        assert_eq!(form("application/vnd.kubernetes.protobuf", true).unwrap_err().code, 406);
        assert_eq!(form("application/json;q=0.5,application/yaml", true).unwrap().media, Media::Yaml);
        assert_eq!(form("", true).unwrap(), Form::default());
    }
}
