//! Shell: the agent's connection to the API server: list, watch, patch.
