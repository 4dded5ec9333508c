//! Pure: the help text.

/// What `bramble` without words, or with `--help`, prints.
pub(crate) const HELP: &str = "\
bramble - Kubernetes for small boards

  bramble up           controller and agent on this board   [--demo]
  bramble controller   the control plane alone
  bramble agent        a worker: --token TOKEN --ca-pin PIN [--server URL[,URL]: not the one found on this link]
                       or --bundle FILE, or --config bramble.toml
  bramble down         stop, and remove every trace on this host   [--purge: the data too]
  bramble check        say what this machine lacks, each with its cure, and what of the stores is damaged
  bramble token        create [--ttl 24h] [--bundle FILE: to carry to a board] | list | revoke ID
  bramble node         list: the boards' keys | revoke NAME: a board that was stolen | readmit NAME
  bramble certificate  check | rotate: the controller's keys and certificates, while it runs
                       rotate-ca: a new authority, the former ones stay trusted until | retire-ca
  bramble snapshot     save FILE | inspect FILE | restore FILE   of the store
                       list | fetch NAME FILE: of those that were taken by the clock
  bramble apply        PATH: manifests into this board's own cluster, a file or a folder
  bramble image        import FILE [NAME] | list | rm NAME
                       customise CARD.img [--config FILE] [--add FILE]...: its bramble.toml, manifests, archives
                       flash CARD.img[.zst] DEVICE: writes and verifies a card, in this computer
  bramble store        rotate: new keys for what is sealed at rest
                       salvage FILE: what is whole of a damaged store, into a new one
                       migrate --from file --to etcd, or back: with every controller stopped, and compared
  bramble logs         NAMESPACE/POD[/CONTAINER], without the controller; without words: of a flashed board itself
  bramble slot         status | install FILE | confirm: the two systems of a flashed board   [--card DEVICE]
  bramble reboot       stop pods first, then start a flashed board again; `bramble poweroff` leaves it off

Options that most of them take
  --data-dir DIR            what survives a reboot          (default /var/lib/bramble)
  --run-dir DIR             what does not                   (default /run/bramble)
  --cgroup-root NAME        parent of every pod's cgroup    (default bramble-<instance>)
  --node-name NAME          this board's node               (default: the host name)
  --config FILE             a bramble.toml, for up, controller and agent: options that are not given
Options of up and controller
  --listen ADDR:PORT        repeatable                      (default 0.0.0.0:6443)
  --advertise-address IP    the address others reach        (default: of the default route)
  --no-mdns                 boards of this link are not told where the controller is (multicast DNS)
  --cluster-cidr CIDR[,CIDR]   pods                         (default 10.42.0.0/16)
  --service-cidr CIDR[,CIDR]   services                     (default 10.43.0.0/16)
                            both with a range of each family for two of them, such as 10.42.0.0/16,fd42::/48
  --load-balancer-pool RANGE[,RANGE]   such as 192.168.1.240-192.168.1.250: for Services of type LoadBalancer
  --site FILE               region, zones and their boards: labels of nodes and volumes; TOML, as the README says
  --node-monitor-grace-period TIME   a board that is silent this long counts as lost (default 50s), or as long as its Lease says
  --snapshot-every TIME     such as 12h, 30m: snapshots by the clock, of root alone   (default: none)
  --snapshot-keep N         the newest ones stay            (default 5)
  --snapshot-dir DIR        where                           (default <data dir>/snapshots, if no bucket is named)
  --snapshot-s3 URL         a bucket of S3 or its like: https://host[:port]/bucket[/prefix]
  --snapshot-s3-credentials FILE   its keys, as the AWS tools keep them: root's alone
  --snapshot-s3-region R    (default us-east-1)    --snapshot-s3-ca FILE   who signs its certificate
  --encryption-provider-config FILE   what is sealed at rest, as upstream's   (default: Secrets)
  --etcd-servers URL[,URL]  a shared etcd for several controllers (default: a file; needs a build with --features etcd)
  --etcd-cafile, --etcd-certfile, --etcd-keyfile FILE   for https:// URLs
  --etcd-prefix PATH        what its keys begin with        (default /registry)
  --token-file FILE         what these controllers share    (default: cluster-token in the first one's data directory)
Options of up and agent
  --insecure-registry HOST[:PORT]   plain HTTP for this registry only; repeatable
  --registry-mirror REGISTRY=URL    asked before the registry, in the order given; * is for all others; repeatable
  --registry-ca HOST[:PORT]=FILE    who signs a registry's or mirror's certificate, in PEM; repeatable
  --overlay vxlan|wireguard|auto    joins boards that no link joins: in the clear (default), encrypted, or as both boards can
  --overlay-keepalive SECONDS       on a board behind a NAT, such as 25: others reach it through WireGuard at any time
  --cni-conf-dir DIR                CNI plugins connect pods, by the first configuration in there, such as /etc/cni/net.d
  --cni-bin-dir DIR[:DIR]           where these plugins are     (default /opt/cni/bin)
  --resolv-conf FILE                resolvers of foreign names (default /etc/resolv.conf)
  --cloud-provider external         the node takes no pods until --site, or another provider, has said where it stands
  --kubelet-port PORT               (default 10250)
  --node-lease-duration TIME        how long this board may be silent; it is heard in two fifths of it, such as 20s where it is to be
                                    missed soon, 10m where the line is dear   (default 100s, some 0.8 MB a day)
Options of agent
  --set-clock               the system's clock follows the controller's, where nothing else sets it
Logging: BRAMBLE_LOG=error|warn|info|debug|trace (default info)
";
