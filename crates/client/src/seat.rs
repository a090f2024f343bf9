//! Seats of buyers under load: they wait in line, take seats, and order what they have taken.

use reqwest::{Method, Request};
use serde_json::json;
use uuid::Uuid;

use crate::{Buyer, Client, Reply};

/// The header with a pass, and the one with a ticket.
const PASS: &str = "X-Queue-Token";
const TICKET: &str = "X-Queue-Ticket";

/// A place in a line, as its owner has been told.
#[derive(Debug, Clone)]
pub struct Place {
    pub event: Uuid,
    pub ticket: String,
    /// The newest token of it.
    pub token: String,
}

impl Place {
    fn path(&self) -> String {
        format!("/queues/{}/tickets/{}", self.event, self.ticket)
    }
}

impl Client {
    /// `POST /queues/{eventId}/tickets`, once.
    pub async fn enter_for(&self, buyer: &Buyer, event: Uuid) -> Reply {
        self.attempt_built(buyer, self.request(Method::POST, &format!("/queues/{event}/tickets"))).await
    }

    /// `GET /queues/{eventId}/tickets/{ticketId}`, once.
    pub async fn ticket_for(&self, buyer: &Buyer, place: &Place) -> Reply {
        let request = self.request(Method::GET, &place.path()).header(TICKET, &place.token);
        self.attempt_built(buyer, request).await
    }

    /// `DELETE /queues/{eventId}/tickets/{ticketId}`, once.
    pub async fn leave_for(&self, buyer: &Buyer, place: &Place) -> Reply {
        let request = self.request(Method::DELETE, &place.path()).header(TICKET, &place.token);
        self.attempt_built(buyer, request).await
    }

    /// `POST /reservations`, once.
    pub async fn reserve_for(&self, buyer: &Buyer, concert: Uuid, seats: &[Uuid], pass: Option<&str>) -> Reply {
        let body = json!({ "concertId": concert, "seatIds": seats });
        let mut request = self.request(Method::POST, "/reservations").json(&body);
        if let Some(pass) = pass {
            request = request.header(PASS, pass);
        }
        self.attempt_built(buyer, request).await
    }

    /// `DELETE /reservations/{reservationId}`, once.
    pub async fn cancel_reservation_for(&self, buyer: &Buyer, reservation: &str) -> Reply {
        self.attempt_built(buyer, self.request(Method::DELETE, &format!("/reservations/{reservation}"))).await
    }

    /// [`Client::order_request`] for the seats of a reservation.
    pub fn reservation_order_request(&self, reservation: &str) -> reqwest::Result<Request> {
        self.request(Method::POST, "/orders").json(&json!({ "reservationId": reservation })).build()
    }
}
