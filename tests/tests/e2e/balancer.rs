//! Services of type LoadBalancer on the LAN: an address of the pool, announced by one board, moved when that one dies. The
//! site that its boards stand in is described, so that its provider's other duties are seen here too (`site`).

use std::time::{Duration, Instant};

use bramble_tests::board::Board;
use bramble_tests::host::output;
use bramble_tests::lan::Lan;

use crate::site::{a_board_is_shut_down, described, told_by_the_provider};
use crate::teller::teller;

const ADDRESS: &str = "10.99.0.200";

/// Local: only a board with a pod announces, and its own pod answers, so that an answer tells who announces.
const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: front}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: teller}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: greedy}
spec:
  type: LoadBalancer
  loadBalancerIP: 10.99.0.200
  selector: {app: teller}
  ports: [{port: 81, targetPort: 8080}]
"#;

/// Who answers a machine of the LAN that is no board.
fn ask(lan: &Lan) -> Option<String> {
    let url = format!("http://{ADDRESS}/");
    let told = output(lan.command("curl").args(["-sS", "--max-time", "0.5", &url]));
    told.status.success().then(|| String::from_utf8_lossy(&told.stdout).trim().to_owned())
}

#[test]
fn an_address_is_announced_by_one_board_and_moves_when_it_dies() {
    let lan = Lan::new(1);
    let mut one = lan.board("balancer", 0);
    let site = described(&one);
    let provided = ["--site", &site, "--cloud-provider", "external"];
    one.start(&[&["--load-balancer-pool", "10.99.0.200-10.99.0.201"], &provided[..]].concat());
    let (mut two, mut three) = (lan.board("balancer", 0), lan.board("balancer", 0));
    let _ = one.kubectl("wait node pi-1 --for=condition=Ready --timeout=30s");
    two.join(&one, "pi-2");
    three.join(&one, "pi-3");
    told_by_the_provider(&one);
    let boards: [&Board; 3] = [&one, &two, &three];
    for (board, node) in boards.iter().zip(["pi-1", "pi-2", "pi-3"]) {
        board.load_tools();
        one.apply(&teller(node));
    }
    let _ = one.kubectl("wait pod -l app=teller --for=condition=Ready --timeout=60s");
    let applied = Instant::now();
    one.apply(SERVICES);
    let first = one.eventually("a machine of the LAN is answered", 30, || ask(&lan));
    println!("apply to the first answer on the load balancer's address: {:.2} s", applied.elapsed().as_secs_f64());
    let shown = one.kubectl("get service front -o jsonpath={.status.loadBalancer.ingress}");
    assert_eq!(shown, r#"[{"ip":"10.99.0.200","ipMode":"VIP"}]"#);
    assert!((0..10).all(|_| ask(&lan).as_ref() == Some(&first)), "one board announces");
    let told = one.eventually("events tell of it", 10, || {
        let told = one.kubectl("describe service front");
        told.contains("nodeAssigned").then_some(told)
    });
    assert!(told.contains("Ensured load balancer: 10.99.0.200"), "{told}");
    assert!(told.contains(&format!("announcing 10.99.0.200 from node \"{first}\"")), "{told}");
    let told = one.kubectl("describe service greedy");
    assert!(told.contains("10.99.0.200 is taken by another Service"), "{told}");

    // Each board tells load balancers that are not ours whether it has pods of the Service.
    let port = one.kubectl("get service front -o jsonpath={.spec.healthCheckNodePort}");
    let health = |board: u8| {
        let url = format!("http://10.99.0.{board}:{port}/");
        let told = output(lan.command("curl").args(["-s", "-w", " %{http_code}", "--max-time", "2", &url]));
        String::from_utf8_lossy(&told.stdout).into_owned()
    };
    for board in 1..=3 {
        let told = health(board);
        assert!(told.contains(r#""localEndpoints":1"#) && told.ends_with(" 200"), "{board}: {told}");
    }
    // One that has none neither says that it has, nor takes part.
    let away = (1..=3).find(|board| format!("pi-{board}") != first).expect("three boards");
    let _ = one.kubectl(&format!("delete pod teller-pi-{away}"));
    one.eventually("it has none any more", 10, || health(away).ends_with(" 503").then_some(()));

    // As when its power goes: nobody is told, not even the controller.
    let number = first.trim_start_matches("pi-").parse().expect("a number");
    lan.plug(number, false);
    let died = Instant::now();
    let second = two.try_eventually(20, || ask(&lan).filter(|now| *now != first)).expect("another board takes over");
    assert_ne!(second, format!("pi-{away}"), "it has no pod to answer");
    println!("the announcing board dies to the first answer of the next: {:.2} s", died.elapsed().as_secs_f64());
    assert!((0..10).all(|_| ask(&lan).as_ref() == Some(&second)), "one board announces");

    // Both believe that they do, until they hear each other.
    lan.plug(number, true);
    std::thread::sleep(Duration::from_secs(2));
    let after: Vec<Option<String>> = (0..10).map(|_| ask(&lan)).collect();
    assert!(after.iter().all(|one| one.is_some() && *one == after[0]), "{after:?}");

    // A board that is told to draws none of it any more.
    let now = after[0].clone().expect("an answer");
    let _ = one.kubectl(&format!("label node {now} node.kubernetes.io/exclude-from-external-load-balancers="));
    let next = one.eventually("another board announces", 20, || ask(&lan).filter(|next| *next != now));
    assert!((0..10).all(|_| ask(&lan).as_ref() == Some(&next)), "one board announces");
    a_board_is_shut_down(&one, &mut three, "pi-3");
}
