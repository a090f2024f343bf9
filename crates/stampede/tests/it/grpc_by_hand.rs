//! gRPC as a person with `grpcurl` meets it: everything can be looked up, and health is told by name.

use futures_util::stream;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::site::{EXECUTABLE, system};

async fn ask(channel: &Channel, question: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let answers = ServerReflectionClient::new(channel.clone()).server_reflection_info(stream::iter([request])).await;
    let answer = answers.expect("reflection answers").into_inner().message().await.expect("an answer comes");
    answer.expect("the stream has an answer").message_response.expect("it says something")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_can_be_looked_up_and_health_is_told_by_name() {
    let address = format!("127.0.0.1:{}", testkit::servers::port());
    let site = system().set("host.grpc_listen", &address).spawn(EXECUTABLE).await;
    let channel = Channel::from_shared(format!("http://{address}")).expect("it is an address").connect_lazy();
    let listed = match ask(&channel, MessageRequest::ListServices(String::new())).await {
        MessageResponse::ListServicesResponse(listed) => listed.service,
        other => panic!("{other:?}"),
    };
    for name in ["grpc.health.v1.Health", "stampede.inventory.v1.StockService", "stampede.queue.v1.QueueService"] {
        assert!(listed.iter().any(|service| service.name == name), "{name} is not among {listed:?}");
    }
    // What the details of an error are: without their description, tools show bytes.
    for symbol in ["grpc.health.v1.Health", "google.rpc.ErrorInfo", "google.rpc.RetryInfo"] {
        let found = ask(&channel, MessageRequest::FileContainingSymbol(symbol.to_owned())).await;
        assert!(matches!(found, MessageResponse::FileDescriptorResponse(_)), "{symbol}: {found:?}");
    }
    let mut health = HealthClient::new(channel);
    let ours = listed.into_iter().map(|service| service.name).filter(|name| name.starts_with("stampede."));
    for service in ours.chain([String::new()]) {
        let answer = health.check(HealthCheckRequest { service: service.clone() }).await;
        let status = answer.unwrap_or_else(|status| panic!("{service}: {status}")).into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
    site.stop().await;
}
