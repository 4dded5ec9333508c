//! Two boards of two IP families: pods, Services, names, policies and the load balancer's address, all of it in IPv6 too.

use std::time::Instant;

use bramble_tests::board::Board;
use bramble_tests::host::output;
use bramble_tests::lan::Lan;

use crate::teller::teller;

/// From outside only a board with a pod of its own announces and answers, so that an answer tells which one that is.
const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: teller}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  externalTrafficPolicy: Local
  selector: {app: teller}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
"#;

const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: teller}}, policyTypes: [Ingress]}
";

/// Of the pool, one of each family.
const ADDRESSES: [&str; 2] = ["10.99.0.200", "fd99::c8"];

/// What a command line prints, or complains of.
fn told(mut command: std::process::Command, words: &[&str]) -> String {
    let told = output(command.args(words));
    String::from_utf8_lossy(&[told.stdout, told.stderr].concat()).trim().to_owned()
}

fn fetch(one: &Board, pod: &str, url: &str) -> String {
    let told = one.try_kubectl(&format!("exec {pod} -- curl -gsS --max-time 2 {url}"));
    String::from_utf8_lossy(&[told.stdout, told.stderr].concat()).trim().to_owned()
}

/// Who answers a machine of the LAN that is no board.
fn ask(lan: &Lan, url: &str) -> Option<String> {
    let answer = told(lan.command("curl"), &["-gsS", "--max-time", "0.5", url]);
    answer.starts_with("pi-").then_some(answer)
}

fn list(one: &Board, of: &str, path: &str) -> Vec<String> {
    let told = one.kubectl(&format!("get {of} -o jsonpath={{{path}}}"));
    told.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn pods_and_services_have_two_families_and_the_lan_finds_them_by_both() {
    let lan = Lan::new(1);
    let mut one = lan.board("dual", 0);
    let ranges = ["--cluster-cidr=10.42.0.0/16,fd42::/48", "--service-cidr=10.43.0.0/16,fd43::/112"];
    one.start(&[&ranges[..], &["--load-balancer-pool=10.99.0.200-10.99.0.201,fd99::c8-fd99::c9"]].concat());
    let mut two = lan.board("dual", 0);
    two.join(&one, "pi-2");
    for board in [&one, &two] {
        board.load_tools();
    }
    for node in ["pi-1", "pi-2"] {
        one.apply(&teller(node));
    }
    one.apply(SERVICE);
    let _ = one.kubectl("wait pod -l app=teller --for=condition=Ready --timeout=60s");
    boards_and_pods_have_both(&one);
    let cluster_ips = list(&one, "service teller", ".spec.clusterIPs[*]");
    pods_reach_each_other(&one, &cluster_ips);
    names_lead_to_both(&two, &cluster_ips);
    policies_hold(&one);
    the_lan_reaches_them(&lan, &one, &two);
}

fn boards_and_pods_have_both(one: &Board) {
    assert_eq!(list(one, "node pi-2", ".spec.podCIDRs[*]"), ["10.42.1.0/24", "fd42:0:0:1::/64"]);
    let addresses = list(one, "node pi-2", ".status.addresses[*].address");
    assert_eq!(addresses, ["10.99.0.2", "fd99::2", "pi-2"]);
    let pod = list(one, "pod teller-pi-2", ".status.podIPs[*].ip");
    assert!(pod.len() == 2 && pod[0].starts_with("10.42.1.") && pod[1].starts_with("fd42:0:0:1::"), "{pod:?}");
    assert_eq!(list(one, "pod teller-pi-2", ".status.hostIPs[*].ip"), ["10.99.0.2", "fd99::2"]);
    let hosts = one.kubectl("exec teller-pi-2 -- cat /etc/hosts");
    assert!(pod.iter().all(|ip| hosts.contains(ip)), "{hosts}");
    let slices = list(one, "endpointslices -l kubernetes.io/service-name=teller", ".items[*].addressType");
    assert!(
        slices.len() == 2 && ["IPv4", "IPv6"].iter().all(|family| slices.iter().any(|one| one == family)),
        "{slices:?}"
    );
    let endpoints = list(one, "endpoints teller", ".subsets[*].addresses[*].ip");
    assert!(endpoints.len() == 2 && endpoints.iter().all(|ip| ip.starts_with("10.42.")), "{endpoints:?}");
}

fn pods_reach_each_other(one: &Board, cluster_ips: &[String]) {
    let six = &list(one, "pod teller-pi-2", ".status.podIPs[*].ip")[1];
    let answer = |url: &str| fetch(one, "teller-pi-1", url);
    let found = one.try_eventually(20, || (answer(&format!("http://[{six}]:8080/")) == "pi-2").then_some(()));
    assert!(found.is_some(), "the other board's pod: {}", answer(&format!("http://[{six}]:8080/")));
    assert!(cluster_ips[0].starts_with("10.43.") && cluster_ips[1].starts_with("fd43::"), "{cluster_ips:?}");
    for url in [format!("http://{}/", cluster_ips[0]), format!("http://[{}]/", cluster_ips[1])] {
        let mut heard = String::new();
        let found = one.try_eventually(20, || {
            heard.push_str(&answer(&url));
            ["pi-1", "pi-2"].iter().all(|node| heard.contains(node)).then_some(())
        });
        assert!(found.is_some(), "{url}: {heard}");
    }
    // The LAN knows no pods: its answer comes back to the board's own address.
    let ping = one.try_kubectl("exec teller-pi-1 -- ping -c 1 -W 2 fd99::fe");
    assert!(ping.status.success(), "{}", String::from_utf8_lossy(&[ping.stdout, ping.stderr].concat()));
}

fn names_lead_to_both(two: &Board, cluster_ips: &[String]) {
    let name = "teller.default.svc.cluster.local";
    for server in ["@10.43.0.10", "@fd43::a"] {
        let dig =
            |words: &[&str]| told(two.command("dig"), &[&["+short", "+time=2", "+tries=2", server], words].concat());
        assert_eq!([dig(&["A", name]), dig(&["AAAA", name])], cluster_ips[..], "{server}");
        assert_eq!(dig(&["-x", &cluster_ips[1]]), format!("{name}."), "{server}");
    }
}

fn policies_hold(one: &Board) {
    let six = &list(one, "pod teller-pi-2", ".status.podIPs[*].ip")[1];
    let url = format!("http://[{six}]:8080/");
    one.apply(DENY);
    one.eventually("the pod is closed", 20, || fetch(one, "teller-pi-1", &url).contains("curl: (28)").then_some(()));
    let _ = one.kubectl("delete netpol deny");
    one.eventually("it is open again", 20, || (fetch(one, "teller-pi-1", &url) == "pi-2").then_some(()));
}

fn the_lan_reaches_them(lan: &Lan, one: &Board, two: &Board) {
    for (board, node) in [("[fd99::1]", "pi-1"), ("[fd99::2]", "pi-2"), ("10.99.0.2", "pi-2")] {
        let url = format!("http://{board}:30080/");
        assert_eq!(ask(lan, &url).as_deref(), Some(node), "{url}");
    }
    let shown = list(one, "service teller", ".status.loadBalancer.ingress[*].ip");
    assert_eq!(shown, ADDRESSES);
    let of = |ip: &str| if ip.contains(':') { format!("http://[{ip}]/") } else { format!("http://{ip}/") };
    let [four, six] = ADDRESSES.map(of);
    let first = one.eventually("the address of IPv6 is announced", 30, || ask(lan, &six));
    let _ = one.eventually("that of IPv4 is", 30, || ask(lan, &four));
    assert!((0..10).all(|_| ask(lan, &six).as_ref() == Some(&first)), "one board announces");
    let neighbour = told(lan.command("ip"), &["-6", "neighbour", "show", ADDRESSES[1]]);
    assert!(neighbour.contains("lladdr"), "{neighbour}");

    // As when its power goes: nobody is told.
    lan.plug(first.trim_start_matches("pi-").parse().expect("a number"), false);
    let died = Instant::now();
    let next = two.try_eventually(20, || ask(lan, &six).filter(|now| *now != first));
    let next = next.unwrap_or_else(|| panic!("another board takes over; the log:\n{}\n{}", one.log(), two.log()));
    println!(
        "the announcing board dies to the first answer of the next, in IPv6: {:.2} s",
        died.elapsed().as_secs_f64()
    );
    assert!((0..10).all(|_| ask(lan, &six).as_ref() == Some(&next)), "one board announces");
}
