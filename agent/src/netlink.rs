//! Pure: netlink messages, encoded and decoded.
