//! Shell: a Kubernetes API client over a transport: in process, or HTTPS.
