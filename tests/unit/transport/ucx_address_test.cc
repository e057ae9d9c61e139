// ucx_address_test.cc: addresses from strangers, and reading what UCX prints of an endpoint.
#include "transport/ucx_address.h"

#include <gtest/gtest.h>

#include <random>

#include "transport/make_exchange.h"
#include "transport/nccl_exchange.h"
#include "transport/ucx_worker.h"

namespace guildhall {
namespace {

TEST(UcxAddress, SurvivesTheWire) {
  const auto address = decode_ucx_address(encode({.instance = 7, .network_namespace = 9, .worker = "abc"}));
  ASSERT_TRUE(address);
  EXPECT_EQ(address->instance, 7u);
  EXPECT_EQ(address->network_namespace, 9u);
  EXPECT_EQ(address->worker, "abc");
}

TEST(UcxAddress, RefusesWhatIsNotOne) {
  const std::string good = encode({.instance = 7, .network_namespace = 9, .worker = "abc"});
  for (size_t length = 0; length <= 24; ++length)
    EXPECT_FALSE(decode_ucx_address(good.substr(0, length))) << length;
  std::string bad = good;
  bad[0] ^= 1;
  EXPECT_EQ(decode_ucx_address(bad).error().code, Code::invalid_argument);
  bad = good;
  bad[4] = 2;
  EXPECT_EQ(decode_ucx_address(bad).error().code, Code::unsupported);
  EXPECT_FALSE(decode_ucx_address(encode({.instance = 0, .worker = "abc"})));
  EXPECT_FALSE(decode_ucx_address(good + std::string(kMaxUcxAddressBytes, 'x')));
}

TEST(UcxAddress, InstancesDiffer) { EXPECT_NE(random_instance(), random_instance()); }

TEST(UcxEndpointInfo, NamesEachTransportOnce) {
  EXPECT_EQ(transports_in_endpoint_info(
                "#                 lane[0]:  5:posix/memory.0 md[3]          -> md[3]/posix am\n"
                "#                 lane[1]:  7:cma/memory.0 md[4]            -> md[4]/cma\n"
                "#                 lane[2]:  7:cma/memory.1 md[4]            -> md[4]/cma\n"),
            "posix+cma");
  EXPECT_EQ(transports_in_endpoint_info("#  lane[0]:  1:tcp/eth0.0 md[1] -> md[1]/tcp/sysdev[255] am\n"
                                        "#  lane[1]:  2:rc_mlx5/mlx5_0:1.0 md[2] -> md[2]/ib\n"),
            "tcp/eth0+rc_mlx5/mlx5_0:1");
}

// Lines of UCX 1.13's ucp_ep_print_info().
TEST(UcxEndpointInfo, PutsAreNativeWhereTheMessageLaneHasThem) {
  const std::string rc =
      "#                 lane[0]:  1:rc_verbs/rxe0:1.0 md[1]       -> md[1]/ib/sysdev[255] rma_bw#0 am "
      "am_bw#0\n"
      "#                 lane[1]:  2:ud_verbs/rxe0:1.0 md[1]       -> md[1]/ib/sysdev[255] keepalive wireup\n"
      "#\n#                 am_send: 0..<egr/short>..72..<egr/bcopy>..415134..<rndv>..(inf)\n";
  const std::string put = "#                  put[0]: 0..<short>..81..<bcopy>..16384..<zcopy>..(inf)\n";
  const std::string other_put = "#                  put[1]: 0..<short>..81..<bcopy>..(inf)\n";
  EXPECT_TRUE(has_native_put_in_endpoint_info(rc + put));
  EXPECT_FALSE(has_native_put_in_endpoint_info(rc));              // emulated, as over ud and tcp
  EXPECT_FALSE(has_native_put_in_endpoint_info(rc + other_put));  // not in order with messages
  EXPECT_FALSE(has_native_put_in_endpoint_info(rc + put + other_put));
  EXPECT_FALSE(has_native_put_in_endpoint_info(""));
}

TEST(UcxEndpointInfo, SurvivesAnyText) {
  EXPECT_EQ(transports_in_endpoint_info(""), "");
  EXPECT_EQ(transports_in_endpoint_info("lane["), "");
  EXPECT_EQ(transports_in_endpoint_info("lane[0]:"), "");
  std::mt19937 random(1);
  const std::string alphabet = "lane[]: 0/.\n";
  for (int i = 0; i < 20000; ++i) {
    std::string text = "lane[0]: ";
    for (size_t k = random() % 40; k > 0; --k) text += alphabet[random() % alphabet.size()];
    transports_in_endpoint_info(text);
    has_native_put_in_endpoint_info(text);
  }
}

TEST(MakeExchange, OpensWhatItIsAskedFor) {
  auto ucx = make_exchange({.kind = ExchangeKind::ucx, .ucx = {.tls = "tcp"}, .name = "w0"});
  ASSERT_TRUE(ucx) << to_string(ucx.error());
  EXPECT_TRUE(decode_ucx_address((*ucx)->local_address()));
  EXPECT_EQ(make_exchange({.kind = ExchangeKind::loopback}).error().code, Code::invalid_argument);
  EXPECT_EQ(make_exchange({.kind = ExchangeKind::nccl}).error().code, Code::unsupported);
  auto nccl =
      make_exchange({.kind = ExchangeKind::nccl, .ucx = {.tls = "tcp"}, .open_nccl = open_nccl_exchange});
  ASSERT_TRUE(nccl);
  EXPECT_NE(dynamic_cast<NcclExchange*>(nccl->get()), nullptr);
}

TEST(MakeExchange, AnUnknownTransportIsNamed) {
  auto exchange = make_exchange({.kind = ExchangeKind::ucx, .ucx = {.tls = "carrier_pigeon"}});
  ASSERT_FALSE(exchange);
  EXPECT_NE(exchange.error().message.find("carrier_pigeon"), std::string::npos) << exchange.error().message;
  auto device = make_exchange({.kind = ExchangeKind::ucx, .ucx = {.tls = "tcp", .net_devices = "eth99"}});
  ASSERT_FALSE(device);
  EXPECT_NE(device.error().message.find("eth99"), std::string::npos) << device.error().message;
}

}  // namespace
}  // namespace guildhall
