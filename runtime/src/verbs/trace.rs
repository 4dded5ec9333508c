//! Shell: what libcontainer logs while it fails, since its errors alone say little.

use std::{
    fmt::Write,
    sync::{Arc, Mutex},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Most events kept: the first ones are nearest to the cause.
const EVENTS_MAX: usize = 4;

/// Collects error events.
#[derive(Clone, Default)]
pub(super) struct Collector(Arc<Mutex<Vec<String>>>);

impl Collector {
    /// Starts to collect in this process.
    pub(super) fn install() -> Collector {
        let collector = Collector::default();
        let _ = tracing::subscriber::set_global_default(collector.clone());
        collector
    }

    pub(super) fn said(&self) -> Vec<String> {
        self.0.lock().map(|events| events.clone()).unwrap_or_default()
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let separator = if self.0.is_empty() { "" } else { " " };
        let _ = match field.name() {
            "message" => write!(self.0, "{separator}{value:?}"),
            name => write!(self.0, "{separator}{name}={value:?}"),
        };
    }
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        if let Ok(mut events) = self.0.lock()
            && events.len() < EVENTS_MAX
        {
            events.push(text.0);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
