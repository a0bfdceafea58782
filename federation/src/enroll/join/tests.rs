use isthmus_model::registry::token::Digest;
use tokio::net::TcpListener;

use super::*;

fn newcomer() -> GatewayName {
    GatewayName {
        federation: "acme.mesh".parse().expect("valid"),
        cluster: "us-west".parse().expect("valid"),
        gateway: "gw-1".parse().expect("valid"),
        locality: "us-west-2/a".parse().expect("valid"),
        east_west: ([127, 0, 0, 1], 15443).into(),
        control: None,
    }
}

fn token(cluster: &str, contact: SocketAddr) -> BearerToken {
    BearerToken::mint(newcomer().federation, Some(cluster.parse().expect("valid")), vec![contact], Digest([7; 32]))
}

async fn refusal(token: &BearerToken) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let data = DataDir::open(directory.path()).expect("usable");
    let patience = Patience { attempt: Duration::from_secs(5), deadline: Duration::ZERO };
    join(&newcomer(), &data, token, patience, &Connect::tcp()).await.err().expect("refused").to_string()
}

#[tokio::test]
async fn a_contact_that_hangs_up_is_not_said_to_be_out_of_reach_only() {
    let contact = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let token = token("us-west", contact.local_addr().expect("bound"));
    // A gateway of another federation: it closes on a name that is not its own.
    let hang_up = async {
        loop {
            drop(contact.accept().await);
        }
    };
    let told = tokio::select! {
        told = refusal(&token) => told,
        () = hang_up => unreachable!("it never ends"),
    };
    assert!(told.contains("it closed the connection: is it a gateway of acme.mesh?"), "{told}");
}

#[tokio::test]
async fn a_token_for_another_cluster_may_be_a_workload_token() {
    let told = refusal(&token("us-east", ([127, 0, 0, 1], 1).into())).await;
    assert!(told.contains("check `cluster`, and that it is no workload token"), "{told}");
}
