//! Shell: a candidate asks for its Lease for ever, and works while it has it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Action, LEASE_DURATION, Observed, RENEW_DEADLINE, RETRY_PERIOD, given_back, plan};
use crate::client::{Client, ClientError, Resource};
use crate::serve::micro_time;

const LEASES: Resource = Resource::new("coordination.k8s.io", "v1", "leases");
const NAMESPACE: &str = "kube-system";

/// Who asks for which Lease.
#[derive(Clone)]
pub struct Candidate {
    /// Reads and writes it.
    pub client: Client,
    /// Its name in kube-system.
    pub lease: &'static str,
    /// Different for every process.
    pub identity: String,
}

/// Does the work while this candidate leads, over and over, until `stop` changes or is dropped; then the Lease is given back.
/// The work is dropped where the Lease is lost.
pub async fn lead<F: Future<Output = ()>>(candidate: Candidate, mut stop: watch::Receiver<bool>, work: impl Fn() -> F) {
    let started = Instant::now();
    let mut observed = Observed::default();
    loop {
        tokio::select! {
            () = acquire(&candidate, &mut observed, started) => {}
            _ = stop.changed() => return,
        }
        tracing::info!(lease = candidate.lease, "this controller leads");
        tokio::select! {
            // The work may end by the same sign: whether to stop is looked at first.
            biased;
            _ = stop.changed() => return give_back(&candidate).await,
            () = work() => {}
            () = renew(&candidate, &mut observed, started) => {}
        }
        tracing::warn!(lease = candidate.lease, "this controller leads no more");
    }
}

async fn acquire(candidate: &Candidate, observed: &mut Observed, started: Instant) {
    while !attempt(candidate, observed, started).await {
        sleep(RETRY_PERIOD + jitter(&candidate.identity, started.elapsed())).await;
    }
}

async fn give_back(candidate: &Candidate) {
    let Candidate { client, lease: name, identity } = candidate;
    let given = async {
        let lease = client.get(&LEASES, Some(NAMESPACE), name).await?;
        match given_back(&lease, identity, &micro_time()) {
            Some(lease) => client.update(&LEASES, &lease).await.map(drop),
            None => Ok(()),
        }
    };
    match given.await {
        Ok(()) => tracing::info!(lease = name, "this controller leads no more; the next one may"),
        // It ends by itself.
        Err(error) => tracing::warn!(lease = name, error = &error as &dyn std::error::Error, "not given back"),
    }
}

/// Until the Lease is another one's, or could not be renewed in time.
async fn renew(candidate: &Candidate, observed: &mut Observed, started: Instant) {
    loop {
        sleep(RETRY_PERIOD).await;
        let renewed = async {
            while !attempt(candidate, observed, started).await {
                if observed.holder() != candidate.identity {
                    return false;
                }
                sleep(RETRY_PERIOD).await;
            }
            true
        };
        if !timeout(RENEW_DEADLINE, renewed).await.unwrap_or(false) {
            return;
        }
    }
}

/// Candidates that start together do not ask together.
fn jitter(identity: &str, now: Duration) -> Duration {
    let sum = identity.bytes().fold(now.subsec_nanos(), |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    RETRY_PERIOD.mul_f64(f64::from(sum % 1000) / 1000.0)
}

/// One step; true when this candidate holds the Lease afterwards.
async fn attempt(candidate: &Candidate, observed: &mut Observed, started: Instant) -> bool {
    let asked = timeout(LEASE_DURATION, step(candidate, observed, started)).await;
    match asked {
        Ok(Ok(held)) => held,
        Ok(Err(error)) => {
            tracing::debug!(lease = candidate.lease, error = &error as &dyn std::error::Error, "not this time");
            false
        }
        Err(_) => false,
    }
}

async fn step(candidate: &Candidate, observed: &mut Observed, started: Instant) -> Result<bool, ClientError> {
    let Candidate { client, lease: name, identity } = candidate;
    let found = match client.get(&LEASES, Some(NAMESPACE), name).await {
        Ok(lease) => Some(lease),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    if let Some(lease) = &found {
        observed.see(&lease["spec"], started.elapsed());
    }
    let written: Value = match plan(found.as_ref(), observed, identity, started.elapsed(), &micro_time()) {
        Action::Wait => return Ok(false),
        Action::Update(lease) => client.update(&LEASES, &lease).await?,
        Action::Create(spec) => {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec});
            client.create(&LEASES, Some(NAMESPACE), &lease).await?
        }
    };
    observed.see(&written["spec"], started.elapsed());
    Ok(true)
}
