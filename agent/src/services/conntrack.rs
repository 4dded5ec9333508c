//! Shell: forgets UDP flows that lead to endpoints which are gone; TCP ends by itself, UDP would go on for ever.

use crate::netlink::conntrack::{self, Tuple};
use crate::netlink::socket::{Error, Socket};
use crate::netlink::wire::Batch;
use std::collections::BTreeSet;
use std::net::SocketAddr;

const UDP: u8 = 17;
/// Flows that are forgotten in one go; what is beyond times out (30 s).
const FORGET_MAX: usize = 4096;

/// Forgets every flow that was rewritten to one of these; how many.
pub(crate) fn forget(gone: &BTreeSet<SocketAddr>) -> Result<usize, Error> {
    let socket = Socket::netfilter()?;
    let mut stale: Vec<Tuple> = Vec::new();
    for ipv4 in [true, false] {
        if !gone.iter().any(|target| target.is_ipv4() == ipv4) {
            continue;
        }
        let mut question = Batch::default();
        conntrack::list(&mut question, ipv4);
        socket.dump(&question, |message| {
            if let Some(flow) = conntrack::parse(message.payload)
                && flow.original.protocol == UDP
                && flow.original.destination != flow.reply.source
                && gone.contains(&flow.reply.source)
                && stale.len() < FORGET_MAX
            {
                stale.push(flow.original);
            }
        })?;
    }
    let mut forgotten = 0;
    for tuple in &stale {
        let mut batch = Batch::default();
        conntrack::delete(&mut batch, tuple);
        // A flow may have ended meanwhile.
        forgotten += usize::from(socket.execute(&batch).is_ok());
    }
    Ok(forgotten)
}
