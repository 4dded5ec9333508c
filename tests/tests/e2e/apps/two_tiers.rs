//! A web tier before a data tier: nginx and Redis find each other by name and are found by Services.

use bramble_tests::image::{nginx, redis};
use bramble_tests::resolver::{ANSWER, Resolver};

use super::{Board, TOOLS, field, sh, wait_ready};

const REDIS: &str = "tests.local/redis:7";
const NGINX: &str = "tests.local/nginx:1";

/// Redis with a password from a Secret, and its Service.
const DATA_TIER: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: redis}
stringData: {password: looking-glass}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: redis}
spec:
  selector: {matchLabels: {app: redis}}
  template:
    metadata: {labels: {app: redis}}
    spec:
      securityContext: {fsGroup: 998}
      containers:
      - name: redis
        image: REDIS
        args: ["--requirepass", "$(REDISCLI_AUTH)", "--dir", /data, "--appendonly", "yes"]
        env: [{name: REDISCLI_AUTH, valueFrom: {secretKeyRef: {name: redis, key: password}}}]
        ports: [{name: redis, containerPort: 6379}]
        startupProbe: {tcpSocket: {port: redis}, periodSeconds: 1, failureThreshold: 30}
        readinessProbe: {exec: {command: [redis-cli, ping]}, periodSeconds: 2, timeoutSeconds: 5}
        livenessProbe: {tcpSocket: {port: redis}, periodSeconds: 5}
        resources: {requests: {cpu: 20m, memory: 16Mi}, limits: {memory: 64Mi}}
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: redis}
spec:
  selector: {app: redis}
  ports: [{name: redis, port: 6379, targetPort: redis}]
---
"#;

/// nginx with its configuration and page from a ConfigMap, before a script that counts in Redis.
const WEB_TIER: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data:
  nginx.conf: |
    user www-data;
    worker_processes 1;
    error_log /dev/stderr;
    pid /run/nginx.pid;
    events { worker_connections 64; }
    http {
      access_log /dev/stdout;
      server {
        listen 80;
        location = /who { return 200 "$hostname\n"; }
        location / { root /srv/page; }
        location /cgi-bin/ { proxy_pass http://127.0.0.1:8081; }
      }
    }
  index.html: "the first page\n"
  hits: |
    #!/bin/sh
    printf 'Content-Type: text/plain\r\n\r\n'
    printf 'AUTH %s\r\nINCR hits\r\nQUIT\r\n' "$PASSWORD" | nc redis.default.svc.cluster.local 6379 | sed -n 2p
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      initContainers:
      - name: wait-for-redis
        image: TOOLS
        command: [sh, -c, "until nc -w 2 redis 6379 < /dev/null; do sleep 0.2; done"]
      terminationGracePeriodSeconds: 2
      containers:
      - name: nginx
        image: NGINX
        args: ["-c", /etc/web/nginx.conf, "-g", "daemon off;"]
        ports: [{name: http, containerPort: 80}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
        livenessProbe: {httpGet: {path: /who, port: http}, periodSeconds: 5}
        volumeMounts:
        - {name: web, mountPath: /etc/web}
        - {name: page, mountPath: /srv/page}
      - name: counter
        image: TOOLS
        command: [sh, -c, "exec httpd -f -p 127.0.0.1:8081 -h /srv"]
        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: redis, key: password}}}]
        volumeMounts: [{name: scripts, mountPath: /srv/cgi-bin}]
      volumes:
      - {name: web, configMap: {name: web, items: [{key: nginx.conf, path: nginx.conf}]}}
      - {name: page, configMap: {name: web, items: [{key: index.html, path: index.html}]}}
      - {name: scripts, configMap: {name: web, defaultMode: 0755, items: [{key: hits, path: hits}]}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30081}]
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec:
  selector: {app: web}
  sessionAffinity: ClientIP
  ports: [{name: http, port: 8000, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  hostname: c
  containers: [{name: client, image: TOOLS, command: [sleep, infinity]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: default, namespace: default}]
"#;

#[test]
fn nginx_and_redis_serve_through_services_and_names() {
    let mut board = Board::new("tiers");
    let resolver = Resolver::start(&board);
    board.start(&["--resolv-conf", &resolver.resolv_conf()]);
    board.load_tools();
    board.load(&nginx(), NGINX);
    board.load(&redis(), REDIS);
    let manifest = [DATA_TIER, WEB_TIER].concat();
    board.apply(
        &manifest
            .replace("image: REDIS", &format!("image: {REDIS}"))
            .replace("image: NGINX", &format!("image: {NGINX}"))
            .replace("image: TOOLS", &format!("image: {TOOLS}")),
    );
    for deployment in ["redis", "web"] {
        let _ = board.kubectl(&format!("rollout status deployment {deployment} --timeout=60s"));
    }
    wait_ready(&board, "pod/client");

    serving(&board);
    services(&board);
    names(&board);
    api_from_inside(&board);
    live_update(&board);
}

fn curl(board: &Board, url: &str) -> String {
    board.succeed(&["curl", "-sSf", "--max-time", "10", url])
}

/// Both tiers, from outside.
fn serving(board: &Board) {
    assert_eq!(curl(board, "http://10.99.0.1:30081/"), "the first page\n");
    for hit in 1..=4 {
        assert_eq!(curl(board, "http://127.0.0.1:30081/cgi-bin/hits").trim(), format!(":{hit}"));
    }
    let refused = sh(board, "client", "printf 'PING\\r\\nQUIT\\r\\n' | nc redis 6379");
    assert!(refused.starts_with("-NOAUTH"), "Redis asks for the password: {refused}");
    let access = board.kubectl("logs -l app=web -c nginx --tail=-1");
    assert!(access.contains("GET /cgi-bin/hits"), "nginx logs to its standard output: {access}");
}

/// ClusterIP, NodePort, affinity and hairpin, from inside pods.
fn services(board: &Board) {
    let web = field(board, "service/web", ".spec.clusterIP");
    let both = |url: &str| {
        let line = format!("for i in $(seq 20); do curl -sSf --max-time 5 {url}; done | sort | uniq | wc -l");
        sh(board, "client", &line).trim().to_owned()
    };
    assert_eq!(both(&format!("http://{web}/who")), "2", "a ClusterIP spreads");
    assert_eq!(both("http://10.99.0.1:30081/who"), "2", "a NodePort from inside a pod spreads");
    assert_eq!(both("http://sticky:8000/who"), "1", "session affinity keeps to one");
    let pods = board.kubectl("get pods -l app=web -o jsonpath={.items[*].metadata.name}");
    for pod in pods.split(' ') {
        let line = "for i in $(seq 10); do curl -sSf --max-time 5 http://web/who; done | sort | uniq | wc -l";
        let seen = sh(board, &format!("{pod} -c counter"), line);
        assert_eq!(seen.trim(), "2", "a pod reaches itself and its twin through its own Service");
    }
    let _ = board.kubectl("scale deployment web --replicas=0");
    let mut answer = String::new();
    let refused = board.try_eventually(30, || {
        let curl = board.try_kubectl("exec client -- curl -sS --max-time 3 http://web/who");
        answer = String::from_utf8_lossy(&[curl.stdout, curl.stderr].concat()).into_owned();
        // curl's number for a connection that was refused, not one that came to nothing (28).
        answer.contains("curl: (7)").then_some(())
    });
    assert!(refused.is_some(), "a Service without pods refuses: {answer}");
    let _ = board.kubectl("scale deployment web --replicas=2");
    let _ = board.kubectl("rollout status deployment web --timeout=60s");
}

/// Services, pods and foreign names.
fn names(board: &Board) {
    let lookup = |name: &str| sh(board, "client", &format!("nslookup {name} 2>&1 || true"));
    let redis = field(board, "service/redis", ".spec.clusterIP");
    for name in ["redis.default.svc.cluster.local", "redis.default.svc.cluster.local."] {
        let found = lookup(name);
        assert!(found.contains(&format!("Address: {redis}")), "{found}");
    }
    let resolv = sh(board, "client", "cat /etc/resolv.conf");
    for line in
        ["nameserver 10.43.0.10", "search default.svc.cluster.local svc.cluster.local cluster.local", "options ndots:5"]
    {
        assert!(resolv.lines().any(|found| found == line), "{resolv}");
    }
    let ip = field(board, "pod/client", ".status.podIP");
    let found = lookup(&format!("{}.default.pod.cluster.local", ip.replace('.', "-")));
    assert!(found.contains(&format!("Address: {ip}")), "{found}");
    // Pods that were scaled away are listed until they have ended.
    board.eventually("the headless name leads to every pod", 40, || {
        let found = lookup("headless.default.svc.cluster.local");
        let ips = board.kubectl("get pods -l app=web -o jsonpath={.items[*].status.podIP}");
        ips.split(' ').all(|ip| found.contains(&format!("Address: {ip}"))).then_some(())
    });
    let found = lookup(&redis);
    assert!(found.contains("name = redis.default.svc.cluster.local"), "{found}");
    let found = lookup("bramble.example.org.");
    assert!(found.contains(&format!("Address: {ANSWER}")), "a foreign name is forwarded: {found}");
    let found = lookup("nothing.default.svc.cluster.local.");
    assert!(found.contains("NXDOMAIN"), "{found}");
}

/// A pod speaks to the API server by name, with its own token and the cluster's authority.
fn api_from_inside(board: &Board) {
    let ask = |path: &str| {
        sh(
            board,
            "client",
            &format!(
                "cd /var/run/secrets/kubernetes.io/serviceaccount && curl -sS --max-time 10 --cacert ca.crt \
                 -H \"Authorization: Bearer $(cat token)\" https://kubernetes.default.svc{path}"
            ),
        )
    };
    let pods = ask("/api/v1/namespaces/default/pods/client");
    assert!(pods.contains(r#""name":"client""#), "{pods}");
    let refused = ask("/api/v1/namespaces/default/secrets");
    let who = r#"User \"system:serviceaccount:default:default\" cannot list resource \"secrets\""#;
    assert!(refused.contains(who) && refused.contains("403"), "{refused}");
    let space = sh(board, "client", "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace");
    assert_eq!(space, "default");
}

/// A new page reaches running pods, the rollout does not.
fn live_update(board: &Board) {
    let before = board.kubectl("get pods -l app=web -o name");
    let patch = board.dir().join("patch.json");
    std::fs::write(&patch, r#"{"data":{"index.html":"the second page\n"}}"#).expect("written");
    let _ = board.kubectl(&format!("patch configmap web --patch-file {}", patch.display()));
    board.eventually("the new page is served", 60, || {
        (curl(board, "http://10.99.0.1:30081/") == "the second page\n").then_some(())
    });
    assert_eq!(board.kubectl("get pods -l app=web -o name"), before, "no pod was replaced");
}
