//! Pure: services and endpoints rendered to an nftables table; its shell programs it.
