//! Two releases in one cluster: refused, or kept apart.

use control_plane::ControlPlane;

use crate::{
    installed::{release, run},
    render::chart_directory,
};

#[tokio::test]
async fn a_second_release_is_refused_unless_it_keeps_other_pull_secrets() {
    let control_plane = ControlPlane::builder().start().await.unwrap();
    run(&mut release(control_plane.helm().command(), "install"));

    let second = |settings: &[&str]| {
        let mut helm = control_plane.helm().command();
        helm.args(["install", "second", "--namespace", "second", "--create-namespace"]).arg(chart_directory());
        helm.args(settings);
        helm
    };
    let refused = |settings: &[&str]| {
        let output = second(settings).output().unwrap();
        assert!(!output.status.success(), "{settings:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let message = refused(&[]);
    assert!(
        message.contains("already has acr-pull-injector: release acr-pull-injector/acr-pull-injector"),
        "{message}"
    );
    let message = refused(&["--set", "pullSecretName=other"]);
    assert!(message.contains("set allowSecondRelease"), "{message}");
    let message = refused(&["--set", "allowSecondRelease=true"]);
    assert!(message.contains("pullSecretName acr-pull-secret is taken by release acr-pull-injector/"), "{message}");

    run(&mut second(&["--set", "allowSecondRelease=true,pullSecretName=other"]));
    // The first goes on as before, except that it cannot take the second's name.
    run(&mut release(control_plane.helm().command(), "upgrade"));
    let collision = release(control_plane.helm().command(), "upgrade").args(["--set", "pullSecretName=other"]).output();
    let message = String::from_utf8(collision.unwrap().stderr).unwrap();
    assert!(message.contains("pullSecretName other is taken by release second/second"), "{message}");
}
