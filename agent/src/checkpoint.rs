//! Shell: desired state kept on the board.
