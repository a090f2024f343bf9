//! Closing a connection without an answer, and bodies that are a form or JSON.

use std::any::Any;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;

use actix_web::dev::Extensions;
use actix_web::web::{Form, Json};
use actix_web::{Either, HttpRequest, HttpResponse, rt};

/// A second handle to the socket that a request came in by.
struct Connection(TcpStream);

/// Keeps a handle to each new connection, for [`cut`].
pub(crate) fn remember(connection: &dyn Any, extensions: &mut Extensions) {
    let Some(stream) = connection.downcast_ref::<rt::net::TcpStream>() else { return };
    // Without one, a cut is a 500: that is unknown to the client as well.
    if let Ok(socket) = stream.as_fd().try_clone_to_owned() {
        extensions.insert(Connection(TcpStream::from(socket)));
    }
}

/// Closes the request's connection, so that the client sees it end without a byte of answer.
///
/// What it returns satisfies the framework, and meets a closed socket.
pub(crate) fn cut(request: &HttpRequest) -> HttpResponse {
    if let Some(Connection(socket)) = request.conn_data() {
        // It fails if the client has closed it already.
        let _ = socket.shutdown(Shutdown::Both);
    }
    HttpResponse::InternalServerError().force_close().finish()
}

/// Integrations send both; so the provider takes both.
pub(crate) type FormOrJson<T> = Either<Form<T>, Json<T>>;

pub(crate) fn form_or_json<T>(body: FormOrJson<T>) -> T {
    match body {
        Either::Left(form) => form.into_inner(),
        Either::Right(json) => json.into_inner(),
    }
}
