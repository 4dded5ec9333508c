//! Pods of several tests: one that tells on which board it is, one that stays where it is.

use bramble_tests::image::TOOLS;

/// The pod `teller-<node>`, with the label `app: teller`; it answers on 8080.
pub(crate) fn teller(node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: teller-{node}, labels: {{app: teller}}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {TOOLS}\n    command: [sh, -c, \
         \"mkdir /www; echo {node} > /www/index.html; exec httpd -f -p 8080 -h /www\"]\n"
    )
}

/// A pod that stays where it is, as an administrator's own.
pub(crate) const HOLDER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: holder}
spec:
  nodeName: pi-2
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "tests.local/tools:1", command: [sh, -c, "echo begun; exec sleep 1000"]}]
"#;
