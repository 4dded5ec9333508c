//! Pure: who is asking: user name, uid, groups, extra.
