//! Images, sandboxes, containers: what a board runs, synchronously, without Kubernetes and without tokio.
