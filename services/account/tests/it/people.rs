//! One address, one person; and whoever writes to people is told the right address.

use contract::account::GetContactsRequest;
use contract::account::account_service_client::AccountServiceClient;
use serde_json::json;
use testkit::site::PASSWORD;
use uuid::Uuid;

use crate::site;

/// Both have found the address free when one of them is faster.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_register_one_address_at_once_one_is_told_that_it_is_taken() {
    let site = site().start().await;
    let faster = "insert into {account}.users (id, email, name, password_hash, role)
         values (gen_random_uuid(), 'ann@example.com', 'Ann', '!', 'USER')";
    let faster = site.begin(faster).await;
    let slower = tokio::spawn({
        let anyone = site.anyone();
        let person = json!({ "email": "ann@example.com", "password": PASSWORD, "name": "Ann" });
        async move { anyone.post("/auth/register", &person).await }
    });
    site.until_blocked("account", 1).await;
    faster.commit().await;
    slower.await.unwrap().refused(409, "EMAIL_ALREADY_EXISTS");
    assert_eq!(site.number("select count(*) from {account}.users where email = 'ann@example.com'").await, 1);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_reached_at_their_own_address() {
    let site = site().start().await;
    let people = site.buyers(3).await;
    let mut account = AccountServiceClient::new(site.upstream("account"));
    let ids: Vec<String> = people.iter().map(|person| person.user_id.clone()).collect();
    let reversed = ids.iter().rev().cloned().collect();
    for user_ids in [ids, reversed] {
        let user_ids = [user_ids, vec![Uuid::now_v7().to_string()]].concat();
        let contacts = account.get_contacts(GetContactsRequest { user_ids }).await.unwrap().into_inner().contacts;
        assert_eq!(contacts.len(), 3, "only those who exist have an address");
        for person in &people {
            let contact = contacts.iter().find(|contact| contact.user_id == person.user_id).unwrap();
            assert_eq!(contact.email, person.email, "everybody is reached at their own address");
        }
    }
    site.stop().await;
}
