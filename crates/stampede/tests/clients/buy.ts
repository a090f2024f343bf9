// Uses the API through a generated client: log in, read products, order, cancel. The compiler judges every field.
import createClient from "openapi-fetch";
import type { paths } from "./api.js";

declare const process: { env: Record<string, string | undefined> };

function variable(name: string): string {
  const value = process.env[name];
  if (value === undefined) throw new Error(`${name} is not set`);
  return value;
}

function check(holds: boolean, promise: string): asserts holds {
  if (!holds) throw new Error(`not so: ${promise}`);
}

const client = createClient<paths>({ baseUrl: variable("API") });

const { data: tokens, error: refused } = await client.POST("/api/v1/auth/login", {
  body: { email: variable("EMAIL"), password: variable("PASSWORD") },
});
check(tokens !== undefined, `the buyer can log in: ${refused?.code}`);
client.use({
  onRequest({ request }) {
    request.headers.set("Authorization", `${tokens.tokenType} ${tokens.accessToken}`);
    return request;
  },
});

const { data: page } = await client.GET("/api/v1/products", { params: { query: { q: variable("SKU"), size: 1 } } });
const product = page?.content[0];
check(product !== undefined && product.sku === variable("SKU"), "the product is found by its SKU");
check(product.stock.available >= 2, "there is something to buy");

const idempotent = { header: { "Idempotency-Key": crypto.randomUUID() } };
const wanted = { items: [{ productId: product.productId, quantity: 2 }] };
const placed = await client.POST("/api/v1/orders", { params: idempotent, body: wanted });
check(placed.response.status === 201 && placed.data !== undefined, `the order is placed: ${placed.error?.code}`);
check(placed.data.totals.amount.amount === 2 * product.price.amount, "two cost twice as much as one");
const again = await client.POST("/api/v1/orders", { params: idempotent, body: wanted });
check(again.data?.orderId === placed.data.orderId, "the same key is the same order");

const path = { orderId: placed.data.orderId };
const cancelled = await client.POST("/api/v1/orders/{orderId}/cancel", { params: { path }, body: { reason: "a test" } });
check(cancelled.data?.status === "CANCELLED", `the order is cancelled: ${cancelled.error?.code}`);
const { data: order } = await client.GET("/api/v1/orders/{orderId}", { params: { path } });
check(order?.status === "CANCELLED" && order.version > placed.data.version, "the order stays cancelled");

const unknown = await client.GET("/api/v1/orders/{orderId}", { params: { path: { orderId: crypto.randomUUID() } } });
check(unknown.error?.code === "ORDER_NOT_FOUND", `an error is a problem with a code: ${unknown.error?.code}`);
console.log(`ordered and cancelled ${order.orderId}`);
