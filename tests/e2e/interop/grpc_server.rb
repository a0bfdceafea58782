# The interoperability server that comes with gRPC's Ruby library, on one address: as it is, it listens on all.
require 'grpc'

module OneAddress
  def add_http2_port(host, credentials)
    super(host.sub('0.0.0.0', ENV.fetch('ADDRESS')), credentials)
  end
end
GRPC::RpcServer.prepend(OneAddress)

load File.join(Gem::Specification.find_by_name('grpc').full_gem_path, 'src/ruby/pb/test/server.rb')
