//! Shell: forgets UDP flows that lead to endpoints which are gone; TCP ends by itself, UDP would go on for ever.

use crate::netlink::conntrack::{self, Tuple};
use crate::netlink::socket::{Error, Socket};
use crate::netlink::wire::Batch;
use crate::network::Cidr;
use std::collections::BTreeSet;
use std::net::SocketAddr;

const UDP: u8 = 17;
/// Flows that are forgotten in one go; what is beyond times out (30 s).
const FORGET_MAX: usize = 4096;

/// Which flows lead nowhere any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stale {
    /// None.
    Nothing,
    /// Those to endpoints that are gone.
    To(BTreeSet<SocketAddr>),
    /// After a start nobody knows what is gone: those to anything in these ranges but the endpoints that there are.
    ToNoneOf(BTreeSet<SocketAddr>, Vec<Cidr>),
}

impl Stale {
    fn holds(&self, target: SocketAddr) -> bool {
        match self {
            Self::Nothing => false,
            Self::To(gone) => gone.contains(&target),
            Self::ToNoneOf(there, ranges) => {
                !there.contains(&target) && ranges.iter().any(|range| range.contains(target.ip()))
            }
        }
    }

    fn concerns(&self, ipv4: bool) -> bool {
        match self {
            Self::Nothing => false,
            Self::To(gone) => gone.iter().any(|target| target.is_ipv4() == ipv4),
            Self::ToNoneOf(_, ranges) => ranges.iter().any(|range| range.is_ipv4() == ipv4),
        }
    }
}

/// Forgets every UDP flow whose destination was rewritten to what is stale; how many.
pub(crate) fn forget(stale: &Stale) -> Result<usize, Error> {
    let socket = Socket::netfilter()?;
    let mut flows: Vec<Tuple> = Vec::new();
    for ipv4 in [true, false].into_iter().filter(|ipv4| stale.concerns(*ipv4)) {
        let mut question = Batch::default();
        conntrack::list(&mut question, ipv4);
        socket.dump(&question, |message| {
            if let Some(flow) = conntrack::parse(message.payload)
                && flow.original.protocol == UDP
                && flow.original.destination != flow.reply.source
                && stale.holds(flow.reply.source)
                && flows.len() < FORGET_MAX
            {
                flows.push(flow.original);
            }
        })?;
    }
    let mut forgotten = 0;
    for tuple in &flows {
        let mut batch = Batch::default();
        conntrack::delete(&mut batch, tuple);
        // A flow may have ended meanwhile.
        forgotten += usize::from(socket.execute(&batch).is_ok());
    }
    Ok(forgotten)
}
