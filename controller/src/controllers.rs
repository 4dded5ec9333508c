//! Shell: one reconcile loop; a controller is a pure plan.
