"""Uses the API through a generated client: log in, read products, order, cancel."""

import os
import uuid

from stampede_client import AuthenticatedClient, Client
from stampede_client.api.auth import log_in
from stampede_client.api.orders import cancel_order, place_order, read_order
from stampede_client.api.products import list_products
from stampede_client.models import CancelOrder, LogIn, OrderStatus, OrderView, PlaceOrder, Problem, ProductsPage, Tokens, WantedItem


def check(holds, promise):
    if not holds:
        raise SystemExit(f"not so: {promise}")


api = os.environ["API"]
# What is not in the description is an error.
anyone = Client(base_url=api, raise_on_unexpected_status=True)
tokens = log_in.sync(client=anyone, body=LogIn(email=os.environ["EMAIL"], password=os.environ["PASSWORD"]))
check(isinstance(tokens, Tokens), f"the buyer can log in: {tokens}")
buyer = AuthenticatedClient(base_url=api, token=tokens.access_token, prefix=tokens.token_type, raise_on_unexpected_status=True)

page = list_products.sync(client=buyer, q=os.environ["SKU"], size=1)
check(isinstance(page, ProductsPage) and page.content, "the product is found by its SKU")
product = page.content[0]
check(product.sku == os.environ["SKU"] and product.stock.available >= 2, "it is the product, and there is something to buy")

key = str(uuid.uuid4())
wanted = PlaceOrder(items=[WantedItem(product_id=product.product_id, quantity=2)])
placed = place_order.sync_detailed(client=buyer, body=wanted, idempotency_key=key)
check(placed.status_code == 201 and isinstance(placed.parsed, OrderView), f"the order is placed: {placed.parsed}")
order = placed.parsed
check(order.totals.amount.amount == 2 * product.price.amount, "two cost twice as much as one")
check(order.hold_expires_at > order.created_at, "times are times")
again = place_order.sync(client=buyer, body=wanted, idempotency_key=key)
check(isinstance(again, OrderView) and again.order_id == order.order_id, "the same key is the same order")

cancelled = cancel_order.sync(str(order.order_id), client=buyer, body=CancelOrder(reason="a test"))
check(isinstance(cancelled, OrderView) and cancelled.status == OrderStatus.CANCELLED, f"the order is cancelled: {cancelled}")
read = read_order.sync(str(order.order_id), client=buyer)
check(isinstance(read, OrderView) and read.status == OrderStatus.CANCELLED, "the order stays cancelled")

unknown = read_order.sync(str(uuid.uuid4()), client=buyer)
check(isinstance(unknown, Problem) and unknown.code == "ORDER_NOT_FOUND", f"an error is a problem with a code: {unknown}")
print(f"ordered and cancelled {order.order_id}")
