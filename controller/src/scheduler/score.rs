//! Pure: the second phase: which of the possible nodes is best. Plugins, weights and normalisation as upstream's defaults.

use super::cluster::{Node, Pod};
use super::filter::{term_holds, tolerated};
use super::placement::Placement;
use super::{affinity, spread};

/// The best score of a plugin.
const MAX: i64 = 100;
/// An image smaller than this earns nothing (upstream's ImageLocality).
const IMAGE_MIN: i64 = 23 << 20;
/// An image larger than this, a container, earns no more.
const IMAGE_MAX: i64 = 1000 << 20;

/// How raw scores become 0 to 100.
enum Normalize {
    /// They are already.
    No,
    /// The largest becomes 100.
    ToMax,
    /// The largest becomes 0.
    Reverse,
    /// The smallest becomes 0, the largest 100.
    Stretch,
    /// The smallest becomes 100, the largest 0 or what is left.
    StretchReverse,
}

struct Scorer {
    weight: i64,
    raw: fn(&Pod, &Node, &Placement) -> i64,
    normalize: Normalize,
}

const SCORERS: &[Scorer] = &[
    Scorer { weight: 3, raw: soft_taints, normalize: Normalize::Reverse },
    Scorer { weight: 2, raw: node_affinity, normalize: Normalize::ToMax },
    Scorer { weight: 2, raw: spread::score, normalize: Normalize::StretchReverse },
    Scorer { weight: 2, raw: affinity::score, normalize: Normalize::Stretch },
    Scorer { weight: 1, raw: least_allocated, normalize: Normalize::No },
    Scorer { weight: 1, raw: balanced, normalize: Normalize::No },
    Scorer { weight: 1, raw: images, normalize: Normalize::No },
];

/// The total of every node, in the order given.
pub(crate) fn scores(pod: &Pod, nodes: &[&Node], placement: &Placement) -> Vec<i64> {
    let mut totals = vec![0; nodes.len()];
    for scorer in SCORERS {
        let mut raw: Vec<i64> = nodes.iter().map(|node| (scorer.raw)(pod, node, placement)).collect();
        normalize(&mut raw, &scorer.normalize);
        totals.iter_mut().zip(raw).for_each(|(total, score)| *total += scorer.weight * score);
    }
    totals
}

fn normalize(scores: &mut [i64], how: &Normalize) {
    let (Some(&low), Some(&high)) = (scores.iter().min(), scores.iter().max()) else { return };
    for score in scores {
        *score = match how {
            Normalize::No => *score,
            Normalize::ToMax if high == 0 => 0,
            Normalize::ToMax => MAX * *score / high,
            Normalize::Reverse if high == 0 => MAX,
            Normalize::Reverse => MAX - MAX * *score / high,
            Normalize::Stretch if high == low => 0,
            Normalize::Stretch => MAX * (*score - low) / (high - low),
            Normalize::StretchReverse if high == 0 => MAX,
            Normalize::StretchReverse => MAX * (high + low - *score) / high,
        };
    }
}

fn soft_taints(pod: &Pod, node: &Node, _: &Placement) -> i64 {
    let soft = node.taints.iter().filter(|taint| &*taint.effect == "PreferNoSchedule");
    soft.filter(|taint| !tolerated(&pod.ask.tolerations, taint)).count() as i64
}

fn node_affinity(pod: &Pod, node: &Node, _: &Placement) -> i64 {
    let preferred = pod.ask.preferred_nodes.iter();
    preferred.filter(|(_, term)| term_holds(term, &node.labels, &node.name.0)).map(|(weight, _)| weight).sum()
}

fn least_allocated(pod: &Pod, node: &Node, _: &Placement) -> i64 {
    let free = |taken: i64, ask: i64, offer: i64| {
        if offer == 0 || taken + ask > offer { 0 } else { (offer - taken - ask) * MAX / offer }
    };
    let cpu = free(node.estimate.0, pod.ask.estimate.0, node.allocatable.cpu);
    let memory = free(node.estimate.1, pod.ask.estimate.1, node.allocatable.memory);
    (cpu + memory) / 2
}

fn balanced(pod: &Pod, node: &Node, _: &Placement) -> i64 {
    let fraction = |taken: i64, ask: i64, offer: i64| {
        if offer == 0 { 1.0 } else { ((taken + ask) as f64 / offer as f64).min(1.0) }
    };
    let cpu = fraction(node.requested.cpu, pod.ask.requests.cpu, node.allocatable.cpu);
    let memory = fraction(node.requested.memory, pod.ask.requests.memory, node.allocatable.memory);
    // The standard deviation of two fractions is half their distance.
    ((1.0 - (cpu - memory).abs() / 2.0) * MAX as f64) as i64
}

fn images(pod: &Pod, node: &Node, _: &Placement) -> i64 {
    let containers = pod.ask.images.len() as i64;
    if containers == 0 {
        return 0;
    }
    let size = |image: &str| node.images.iter().find(|(known, _)| names(known, image)).map_or(0, |(_, size)| *size);
    let sum: i64 = pod.ask.images.iter().map(|image| size(image)).sum();
    let (low, high) = (IMAGE_MIN, IMAGE_MAX * containers);
    MAX * (sum.clamp(low, high) - low) / (high - low)
}

/// Does a node's name of an image mean the pod's?
fn names(known: &str, image: &str) -> bool {
    let tagged = image.rsplit('/').next().is_some_and(|last| last.contains(':') || last.contains('@'));
    known == image || (!tagged && known.strip_suffix(":latest") == Some(image))
}
