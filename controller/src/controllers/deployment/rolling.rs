//! Pure: from the old sets to the new one, step by step, within surge and unavailability.

use super::scale::Scaling;
use super::{Set, Situation};

/// How large the new set may be now.
pub(super) fn new_set_size(situation: &Situation) -> i64 {
    let replicas = situation.deployment.replicas;
    if situation.deployment.recreate {
        return replicas;
    }
    let now = situation.new.as_ref().map_or(0, |(_, set)| set.replicas);
    let total: i64 = situation.all().map(|(_, set)| set.replicas).sum();
    let most = replicas + situation.max_surge();
    if total >= most {
        return now;
    }
    now + (most - total).min(replicas - now)
}

/// The next scalings of a rolling update: the new set first; old sets only when the new one stays.
pub(super) fn next(situation: &Situation) -> Vec<Scaling> {
    let Some(new) = &situation.new else { return Vec::new() };
    let replicas = situation.deployment.replicas;
    let size = if new.1.replicas > replicas { replicas } else { new_set_size(situation) };
    match Scaling::new(situation, new, size) {
        Some(scaling) => vec![scaling],
        None => old_down(situation, new),
    }
}

fn old_down(situation: &Situation, new: &Set) -> Vec<Scaling> {
    let mut sizes: Vec<i64> = situation.old.iter().map(|(_, set)| set.replicas).collect();
    if sizes.iter().sum::<i64>() == 0 {
        return Vec::new();
    }
    let total: i64 = situation.all().map(|(_, set)| set.replicas).sum();
    let least = situation.deployment.replicas - situation.max_unavailable();
    let new_unavailable = new.1.replicas - new.1.status.available;
    let spare = total - least - new_unavailable;
    if spare <= 0 {
        return Vec::new();
    }
    // First what does not work anyway.
    let mut left = spare;
    for (size, (_, set)) in sizes.iter_mut().zip(&situation.old) {
        let gone = (*size - set.status.available).clamp(0, left);
        *size -= gone;
        left -= gone;
    }
    // Then what does, as long as enough is available.
    let available: i64 = situation.all().map(|(_, set)| set.status.available).sum();
    let mut left = (available - least).max(0);
    for size in &mut sizes {
        let gone = (*size).min(left);
        *size -= gone;
        left -= gone;
    }
    let changed = situation.old.iter().zip(sizes).filter(|((_, set), size)| set.replicas != *size);
    changed.filter_map(|(set, size)| Scaling::new(situation, set, size)).collect()
}

/// Recreate: every old set to nothing.
pub(super) fn all_down(situation: &Situation) -> Vec<Scaling> {
    let running = situation.old.iter().filter(|(_, set)| set.replicas > 0);
    running.filter_map(|set| Scaling::new(situation, set, 0)).collect()
}

/// Recreate: the new set to its full size.
pub(super) fn all_up(situation: &Situation) -> Vec<Scaling> {
    let new = situation.new.as_ref();
    new.and_then(|set| Scaling::new(situation, set, situation.deployment.replicas)).into_iter().collect()
}
