//! What end-to-end tests stand on: a board of one's own, kubectl, a registry, and a count of what is left on the host.
//!
//! Every [`Board`] is the real binary under `up`, in a network namespace and directories of its own, and removes all of it
//! when it goes out of scope, also after a failed test. A test that cannot run fails and says what is missing.
//!
//! All but `tidy.rs` are one program, `tests/e2e/`: linked once, and its tests run side by side.
//!
//! | file below `tests/` | proves |
//! | --- | --- |
//! | `tidy.rs` | the rules of the house |
//! | `static_binary.rs` | the binary starts in an empty root |
//! | `demo.rs` | `up --demo`, stop, again, `down`: nothing is left |
//! | `kubectl.rs` | kubectl's verbs, oldest and newest; who may see what |
//! | `streams.rs` | exec, attach, cp, port-forward, run, logs with every kubectl |
//! | `survival.rs` | `kill -9` of everything at bad moments harms no container and leaves nothing |
//! | `backup.rs` | snapshots by the clock, in a folder and in a bucket |
//! | `controllers.rs` | several controllers over one etcd; a board with the leader dies |
//! | `balancer.rs`, `site.rs` | the provider: load balancers on the LAN, zones, routes, volumes, boards that are shut down |
//! | `boards.rs` | several boards: joining, pods and Services across links, pulled plugs |
//! | `conflict.rs` | two boards with one address: who was there first keeps it, both are told |
//! | `partition.rs` | three days apart by the controller's clock, both sides change: nothing restarts without need |
//! | `nat.rs` | a board behind a NAT: logs, exec, attach, port-forward, a pod's page, by a connection that it opens |
//! | `dual.rs` | two boards of IPv4 and IPv6: pods, Services, names, policies, a load balancer's address that moves |
//! | `trouble.rs` | bad lines, one-way partitions, frozen agents; an outage of most of twenty boards moves nothing |
//! | `authority.rs` | keys, certificates and the authority change under a running cluster |
//! | `../benches/figures.rs`, `boards.rs` | nothing: they print the figures of one board, and of several |
//! | `../src/bin/boot-test/` | a card's image boots in an emulator, joins, serves, is updated; run by `images/boot-test` |
//! | `apps.rs` | images, pods, Services with nginx and Redis from Debian packages |

pub mod board;
pub mod bucket;
pub mod client;
pub mod emulator;
pub mod etcd;
pub mod host;
pub mod image;
pub mod kubectl;
pub mod lan;
pub mod line;
pub mod registry;
pub mod resolver;
pub mod spent;
