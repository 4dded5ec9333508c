//! A pod that tells on which board it is.

use bramble_tests::image::TOOLS;

/// The pod `teller-<node>`, with the label `app: teller`; it answers on 8080.
pub(crate) fn teller(node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: teller-{node}, labels: {{app: teller}}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {TOOLS}\n    command: [sh, -c, \
         \"mkdir /www; echo {node} > /www/index.html; exec httpd -f -p 8080 -h /www\"]\n"
    )
}
