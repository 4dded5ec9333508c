//! Shell: exec, HTTP, TCP and gRPC probes.
