use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::Response;
use futures_util::future::Either;
use http::HeaderMap;
use tower::{Layer, Service};

/// Puts a layer around routes for the requests that it is for: it would copy and box the route for all the others too, and
/// hardly anybody asks for it.
#[derive(Clone)]
pub(crate) struct Rarely<L> {
    pub is_for: fn(&HeaderMap) -> bool,
    pub layer: L,
}

/// A route, with a layer that it may get.
#[derive(Clone)]
pub(crate) struct Bare<L, S> {
    rarely: Rarely<L>,
    route: S,
}

impl<L: Clone, S> Layer<S> for Rarely<L> {
    type Service = Bare<L, S>;

    fn layer(&self, route: S) -> Bare<L, S> {
        Bare { rarely: self.clone(), route }
    }
}

impl<L, S> Service<Request> for Bare<L, S>
where
    L: Layer<S, Service: Service<Request, Response = Response, Error = Infallible>>,
    S: Service<Request, Response = Response, Error = Infallible> + Clone,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, <L::Service as Service<Request>>::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.route.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Rarely { is_for, layer } = &self.rarely;
        if is_for(request.headers()) {
            Either::Right(layer.layer(self.route.clone()).call(request))
        } else {
            Either::Left(self.route.call(request))
        }
    }
}
