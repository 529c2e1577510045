use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::Response;
use futures_util::future::Either;
use http::HeaderMap;
use tower::{Layer, Service};

/// Conditional layer: wraps a route only for the requests for which `applies` returns true.
///
/// An unconditional `from_fn` layer would clone and box the route for every request, although few requests need it.
#[derive(Clone)]
pub(crate) struct ConditionalLayer<L> {
    pub applies: fn(&HeaderMap) -> bool,
    pub layer: L,
}

/// Service of a [`ConditionalLayer`].
#[derive(Clone)]
pub(crate) struct ConditionalService<L, S> {
    conditional: ConditionalLayer<L>,
    route: S,
}

impl<L: Clone, S> Layer<S> for ConditionalLayer<L> {
    type Service = ConditionalService<L, S>;

    fn layer(&self, route: S) -> ConditionalService<L, S> {
        ConditionalService { conditional: self.clone(), route }
    }
}

impl<L, S> Service<Request> for ConditionalService<L, S>
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
        let ConditionalLayer { applies, layer } = &self.conditional;
        if applies(request.headers()) {
            Either::Right(layer.layer(self.route.clone()).call(request))
        } else {
            Either::Left(self.route.call(request))
        }
    }
}
