//! Shell: lists: pages of stored bytes on their way to the client, one page in memory at a time.

use std::io::Write;
use std::sync::Arc;

use bramble_store::Record;
use bytes::Bytes;
use serde_json::{Value, json};

use super::Body;
use super::answer;
use super::body::unfold;
use super::negotiate::{Form, Media, Shape};
use super::table::{self, Include};
use crate::kinds::Kind;
use crate::registry::status::{Answer, ApiError};
use crate::registry::{Lister, view};

/// A list that is being told.
struct Telling {
    lister: Lister,
    kind: Arc<Kind>,
    shape: Shape,
    include: Include,
    now: i64,
    first: bool,
    comma: bool,
    page: Option<Vec<Record>>,
}

/// Answers a list. The first page is read before the answer begins, so that errors are still a Status.
pub(crate) async fn respond(
    mut lister: Lister,
    kind: Arc<Kind>,
    form: Form,
    include: Include,
    now: i64,
) -> Answer<http::Response<Body>> {
    let page = lister.next().await?;
    let telling = Telling { lister, kind, shape: form.shape, include, now, first: true, comma: false, page };
    if form.media == Media::Yaml {
        return yaml(telling, form).await;
    }
    Ok(answer::with_body(200, form.content_type(), unfold(Some(telling), step)))
}

/// The next piece of the list: a page, or what closes it.
async fn step(telling: Option<Telling>) -> std::io::Result<Option<(Bytes, Option<Telling>)>> {
    let Some(mut telling) = telling else { return Ok(None) };
    let page = match telling.page.take() {
        Some(page) => Some(page),
        None => telling.lister.next().await.map_err(std::io::Error::other)?,
    };
    let mut out = Vec::new();
    let opening = std::mem::replace(&mut telling.first, false);
    if opening {
        telling.open(&mut out);
    }
    let Some(page) = page else {
        telling.close(&mut out);
        return Ok(Some((out.into(), None)));
    };
    for (at, record) in page.iter().enumerate() {
        if at > 0 || telling.comma {
            out.push(b',');
        }
        telling.item(record, &mut out).map_err(std::io::Error::other)?;
        telling.comma = true;
    }
    Ok(Some((out.into(), Some(telling))))
}

impl Telling {
    fn open(&self, out: &mut Vec<u8>) {
        let head = match self.shape {
            Shape::Whole => json!({"kind": format!("{}List", self.kind.kind), "apiVersion": self.kind.api_version()}),
            Shape::Partial(version) => {
                json!({"kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}")})
            }
            Shape::Table(version) => json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"),
                "columnDefinitions": table::definitions(&self.kind)}),
        };
        let items = if matches!(self.shape, Shape::Table(_)) { "rows" } else { "items" };
        let mut head = head.to_string();
        head.pop();
        put(out, format_args!("{head},\"{items}\":["));
    }

    /// The metadata comes last: whether there is a next page is known only then.
    fn close(&self, out: &mut Vec<u8>) {
        let mut metadata = json!({"resourceVersion": self.lister.revision().to_string()});
        if let Some(token) = self.lister.continue_token() {
            metadata["continue"] = token.into();
        }
        if let Some(remaining) = self.lister.remaining() {
            metadata["remainingItemCount"] = remaining.into();
        }
        put(out, format_args!("],\"metadata\":{metadata}}}"));
    }

    fn item(&self, record: &Record, out: &mut Vec<u8>) -> Answer<()> {
        let revision = record.revision.0;
        let shown = match self.shape {
            Shape::Whole => return view::emit(&self.kind, &record.value, revision, out),
            Shape::Partial(version) => table::partial(view::object(&self.kind, &record.value, revision)?, version),
            Shape::Table(version) => {
                let object = view::object(&self.kind, &record.value, revision)?;
                table::row(&self.kind, object, self.include, version, self.now)
            }
        };
        serde_json::to_writer(out, &shown).map_err(ApiError::internal)
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("memory takes every byte");
}

/// YAML is for people: the list is built whole.
async fn yaml(telling: Telling, form: Form) -> Answer<http::Response<Body>> {
    let mut bytes = Vec::new();
    let mut state = Some(telling);
    while let Some((piece, next)) = step(state).await.map_err(ApiError::internal)? {
        bytes.extend_from_slice(&piece);
        state = next;
        if state.is_none() {
            break;
        }
    }
    let list: Value = serde_json::from_slice(&bytes).map_err(ApiError::internal)?;
    Ok(answer::value(200, form, &list))
}
