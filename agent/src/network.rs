//! Shell: the pod network of a board.
