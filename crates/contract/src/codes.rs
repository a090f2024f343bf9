//! The refusals that clients can branch on, beyond the general ones of `common::error`.

use common::Code;
use tonic::Code as Grpc;

pub const AMOUNT_MISMATCH: Code =
    Code::new("AMOUNT_MISMATCH", 422, Grpc::FailedPrecondition, "결제 금액이 주문 금액과 다릅니다.");
pub const API_KEY_LIMIT_REACHED: Code =
    Code::new("API_KEY_LIMIT_REACHED", 409, Grpc::FailedPrecondition, "유효한 API 키는 두 개까지 만들 수 있습니다.");
pub const API_KEY_NOT_FOUND: Code = Code::new("API_KEY_NOT_FOUND", 404, Grpc::NotFound, "API 키를 찾을 수 없습니다.");
pub const CONCERT_NOT_FOUND: Code = Code::new("CONCERT_NOT_FOUND", 404, Grpc::NotFound, "공연을 찾을 수 없습니다.");
pub const CONCURRENT_MODIFICATION: Code =
    Code::new("CONCURRENT_MODIFICATION", 409, Grpc::Aborted, "동시에 변경되었습니다. 다시 시도하세요.");
pub const COUPON_ALREADY_ISSUED: Code =
    Code::new("COUPON_ALREADY_ISSUED", 409, Grpc::AlreadyExists, "이미 발급받은 쿠폰입니다.");
pub const COUPON_EXPIRED: Code = Code::new("COUPON_EXPIRED", 410, Grpc::FailedPrecondition, "쿠폰 기간이 지났습니다.");
pub const COUPON_IN_USE: Code =
    Code::new("COUPON_IN_USE", 409, Grpc::FailedPrecondition, "이미 다른 주문에 사용된 쿠폰입니다.");
pub const COUPON_ISSUE_NOT_FOUND: Code =
    Code::new("COUPON_ISSUE_NOT_FOUND", 404, Grpc::NotFound, "발급된 쿠폰을 찾을 수 없습니다.");
pub const COUPON_NOT_APPLICABLE: Code =
    Code::new("COUPON_NOT_APPLICABLE", 422, Grpc::FailedPrecondition, "이 주문에 사용할 수 없는 쿠폰입니다.");
pub const COUPON_NOT_FOUND: Code = Code::new("COUPON_NOT_FOUND", 404, Grpc::NotFound, "쿠폰을 찾을 수 없습니다.");
pub const COUPON_NOT_OPEN: Code =
    Code::new("COUPON_NOT_OPEN", 409, Grpc::FailedPrecondition, "아직 발급할 수 없는 쿠폰입니다.");
pub const COUPON_SOLD_OUT: Code =
    Code::new("COUPON_SOLD_OUT", 409, Grpc::ResourceExhausted, "쿠폰이 모두 소진되었습니다.");
pub const DELIVERY_NOT_FOUND: Code =
    Code::new("DELIVERY_NOT_FOUND", 404, Grpc::NotFound, "전송 내역을 찾을 수 없습니다.");
pub const DELIVERY_NOT_RETRYABLE: Code =
    Code::new("DELIVERY_NOT_RETRYABLE", 409, Grpc::FailedPrecondition, "다시 시도할 수 없는 전송입니다.");
pub const EMAIL_ALREADY_EXISTS: Code =
    Code::new("EMAIL_ALREADY_EXISTS", 409, Grpc::AlreadyExists, "이미 가입된 이메일입니다.");
pub const EVENT_ALREADY_OPEN: Code =
    Code::new("EVENT_ALREADY_OPEN", 409, Grpc::FailedPrecondition, "이미 시작된 이벤트입니다.");
pub const EVENT_CLOSED: Code = Code::new("EVENT_CLOSED", 409, Grpc::FailedPrecondition, "종료된 이벤트입니다.");
pub const EVENT_NOT_FOUND: Code = Code::new("EVENT_NOT_FOUND", 404, Grpc::NotFound, "이벤트를 찾을 수 없습니다.");
pub const EVENT_NOT_OPEN: Code =
    Code::new("EVENT_NOT_OPEN", 409, Grpc::FailedPrecondition, "아직 시작되지 않은 이벤트입니다.");
pub const EVENT_SOLD_OUT: Code = Code::new("EVENT_SOLD_OUT", 410, Grpc::FailedPrecondition, "매진되었습니다.");
pub const HOLD_ALREADY_CONFIRMED: Code =
    Code::new("HOLD_ALREADY_CONFIRMED", 409, Grpc::FailedPrecondition, "이미 확정된 재고입니다.");
pub const HOLD_ALREADY_RELEASED: Code =
    Code::new("HOLD_ALREADY_RELEASED", 409, Grpc::FailedPrecondition, "이미 해제된 재고입니다.");
pub const HOLD_EXPIRED: Code = Code::new("HOLD_EXPIRED", 410, Grpc::FailedPrecondition, "재고 예약 시간이 지났습니다.");
pub const HOLD_NOT_CONFIRMED: Code =
    Code::new("HOLD_NOT_CONFIRMED", 409, Grpc::FailedPrecondition, "확정되지 않은 재고입니다.");
pub const HOLD_NOT_FOUND: Code = Code::new("HOLD_NOT_FOUND", 404, Grpc::NotFound, "재고 예약을 찾을 수 없습니다.");
pub const INVALID_CREDENTIALS: Code =
    Code::new("INVALID_CREDENTIALS", 401, Grpc::Unauthenticated, "이메일 또는 비밀번호가 올바르지 않습니다.");
pub const INSUFFICIENT_POINTS: Code =
    Code::new("INSUFFICIENT_POINTS", 422, Grpc::FailedPrecondition, "포인트가 부족합니다.");
pub const INVALID_SIGNATURE: Code =
    Code::new("INVALID_SIGNATURE", 401, Grpc::Unauthenticated, "서명이 올바르지 않습니다.");
pub const NOTIFICATION_NOT_FOUND: Code =
    Code::new("NOTIFICATION_NOT_FOUND", 404, Grpc::NotFound, "알림을 찾을 수 없습니다.");
pub const ORDER_NOT_CANCELLABLE: Code =
    Code::new("ORDER_NOT_CANCELLABLE", 409, Grpc::FailedPrecondition, "취소할 수 없는 주문입니다.");
pub const ORDER_NOT_FOUND: Code = Code::new("ORDER_NOT_FOUND", 404, Grpc::NotFound, "주문을 찾을 수 없습니다.");
pub const ORDER_NOT_PAYABLE: Code =
    Code::new("ORDER_NOT_PAYABLE", 409, Grpc::FailedPrecondition, "결제할 수 없는 주문입니다.");
pub const OUT_OF_STOCK: Code =
    Code::new("OUT_OF_STOCK", 409, Grpc::ResourceExhausted, "요청 수량만큼 재고가 없습니다.");
pub const PAYMENT_DECLINED: Code =
    Code::new("PAYMENT_DECLINED", 402, Grpc::FailedPrecondition, "결제가 거절되었습니다.");
pub const PAYMENT_IN_PROGRESS: Code = Code::new("PAYMENT_IN_PROGRESS", 409, Grpc::Aborted, "결제가 진행 중입니다.");
pub const PAYMENT_NOT_APPROVABLE: Code =
    Code::new("PAYMENT_NOT_APPROVABLE", 409, Grpc::FailedPrecondition, "승인할 수 없는 결제입니다.");
pub const PAYMENT_NOT_FOUND: Code = Code::new("PAYMENT_NOT_FOUND", 404, Grpc::NotFound, "결제를 찾을 수 없습니다.");
pub const PAYMENT_NOT_REFUNDABLE: Code =
    Code::new("PAYMENT_NOT_REFUNDABLE", 409, Grpc::FailedPrecondition, "환불할 수 없는 결제입니다.");
pub const PG_ERROR: Code = Code::new("PG_ERROR", 502, Grpc::Unavailable, "결제사가 요청을 처리하지 못했습니다.");
pub const PRODUCT_IN_STOCK: Code =
    Code::new("PRODUCT_IN_STOCK", 409, Grpc::FailedPrecondition, "재고가 있는 상품입니다.");
pub const PRODUCT_NOT_FOUND: Code = Code::new("PRODUCT_NOT_FOUND", 404, Grpc::NotFound, "상품을 찾을 수 없습니다.");
pub const PURCHASE_LIMIT_EXCEEDED: Code =
    Code::new("PURCHASE_LIMIT_EXCEEDED", 409, Grpc::ResourceExhausted, "1인당 구매 가능 수량을 초과했습니다.");
pub const QUEUE_DRAINING: Code =
    Code::new("QUEUE_DRAINING", 409, Grpc::FailedPrecondition, "대기열 접수가 마감되었습니다.");
pub const QUEUE_FULL: Code =
    Code::new("QUEUE_FULL", 429, Grpc::ResourceExhausted, "대기열이 가득 찼습니다. 잠시 후 다시 시도하세요.");
pub const QUEUE_TOKEN_INVALID: Code =
    Code::new("QUEUE_TOKEN_INVALID", 403, Grpc::PermissionDenied, "대기열 입장 토큰이 유효하지 않습니다.");
pub const QUEUE_TOKEN_REQUIRED: Code =
    Code::new("QUEUE_TOKEN_REQUIRED", 403, Grpc::PermissionDenied, "대기열 입장 토큰이 필요합니다.");
pub const QUEUE_UNAVAILABLE: Code =
    Code::new("QUEUE_UNAVAILABLE", 503, Grpc::Unavailable, "대기열을 확인할 수 없습니다. 잠시 후 다시 시도하세요.");
pub const REDEMPTION_CONFIRMED: Code =
    Code::new("REDEMPTION_CONFIRMED", 409, Grpc::FailedPrecondition, "이미 사용이 확정된 쿠폰입니다.");
pub const REDEMPTION_ENDED: Code =
    Code::new("REDEMPTION_ENDED", 410, Grpc::FailedPrecondition, "쿠폰 예약이 이미 끝났습니다.");
pub const REDEMPTION_NOT_FOUND: Code =
    Code::new("REDEMPTION_NOT_FOUND", 404, Grpc::NotFound, "쿠폰 예약을 찾을 수 없습니다.");
pub const REFRESH_TOKEN_INVALID: Code =
    Code::new("REFRESH_TOKEN_INVALID", 401, Grpc::Unauthenticated, "리프레시 토큰이 올바르지 않습니다.");
pub const REFRESH_TOKEN_REUSED: Code = Code::new(
    "REFRESH_TOKEN_REUSED",
    401,
    Grpc::Unauthenticated,
    "이미 사용된 리프레시 토큰입니다. 다시 로그인하세요.",
);
pub const REFUND_EXCEEDS_CAPTURED: Code =
    Code::new("REFUND_EXCEEDS_CAPTURED", 409, Grpc::FailedPrecondition, "환불 금액이 결제 금액을 초과합니다.");
pub const RESERVATION_ENDED: Code =
    Code::new("RESERVATION_ENDED", 410, Grpc::FailedPrecondition, "좌석 예약 시간이 지났거나 취소되었습니다.");
pub const RESERVATION_NOT_FOUND: Code =
    Code::new("RESERVATION_NOT_FOUND", 404, Grpc::NotFound, "좌석 예약을 찾을 수 없습니다.");
pub const RESERVATION_ORDERED: Code =
    Code::new("RESERVATION_ORDERED", 409, Grpc::FailedPrecondition, "이미 주문된 좌석 예약입니다.");
pub const ROUND_IN_PROGRESS: Code =
    Code::new("ROUND_IN_PROGRESS", 409, Grpc::Aborted, "재입고 알림을 발송하는 중입니다.");
pub const ROUND_NOT_FOUND: Code = Code::new("ROUND_NOT_FOUND", 404, Grpc::NotFound, "재입고 회차를 찾을 수 없습니다.");
pub const ROUND_NOT_RESUMABLE: Code =
    Code::new("ROUND_NOT_RESUMABLE", 409, Grpc::FailedPrecondition, "다시 시작할 수 없는 재입고 회차입니다.");
pub const SEATS_REQUIRED: Code =
    Code::new("SEATS_REQUIRED", 422, Grpc::FailedPrecondition, "좌석을 선택하여 예약해야 하는 상품입니다.");
pub const SEAT_ALREADY_EXISTS: Code =
    Code::new("SEAT_ALREADY_EXISTS", 409, Grpc::AlreadyExists, "이미 존재하는 좌석입니다.");
pub const SEAT_ALREADY_RESERVED: Code =
    Code::new("SEAT_ALREADY_RESERVED", 409, Grpc::AlreadyExists, "이미 예약된 좌석입니다.");
pub const SEAT_NOT_FOUND: Code = Code::new("SEAT_NOT_FOUND", 404, Grpc::NotFound, "좌석을 찾을 수 없습니다.");
pub const SKU_ALREADY_EXISTS: Code =
    Code::new("SKU_ALREADY_EXISTS", 409, Grpc::AlreadyExists, "이미 존재하는 SKU입니다.");
pub const STOCK_BELOW_HELD: Code =
    Code::new("STOCK_BELOW_HELD", 409, Grpc::FailedPrecondition, "예약된 수량보다 적게 줄일 수 없습니다.");
pub const TEMPLATE_INVALID: Code =
    Code::new("TEMPLATE_INVALID", 422, Grpc::FailedPrecondition, "알림 템플릿을 이 데이터로 만들 수 없습니다.");
pub const TEMPLATE_NOT_FOUND: Code =
    Code::new("TEMPLATE_NOT_FOUND", 404, Grpc::NotFound, "알림 템플릿을 찾을 수 없습니다.");
pub const TICKET_EXPIRED: Code =
    Code::new("TICKET_EXPIRED", 410, Grpc::FailedPrecondition, "대기 순번이 만료되었습니다. 다시 대기열에 들어오세요.");
pub const TICKET_NOT_FOUND: Code = Code::new("TICKET_NOT_FOUND", 404, Grpc::NotFound, "대기표를 찾을 수 없습니다.");
pub const TOO_MANY_ATTEMPTS: Code =
    Code::new("TOO_MANY_ATTEMPTS", 429, Grpc::ResourceExhausted, "시도가 너무 많습니다. 잠시 후 다시 시도하세요.");
pub const TYPE_NOT_MUTABLE: Code =
    Code::new("TYPE_NOT_MUTABLE", 422, Grpc::FailedPrecondition, "끌 수 없는 알림입니다.");
pub const UNKNOWN_CHANNEL: Code =
    Code::new("UNKNOWN_CHANNEL", 422, Grpc::FailedPrecondition, "알 수 없는 알림 채널입니다.");
pub const USER_NOT_FOUND: Code = Code::new("USER_NOT_FOUND", 404, Grpc::NotFound, "사용자를 찾을 수 없습니다.");
pub const WEBHOOK_ENDPOINT_NOT_FOUND: Code =
    Code::new("WEBHOOK_ENDPOINT_NOT_FOUND", 404, Grpc::NotFound, "웹훅 주소를 찾을 수 없습니다.");
