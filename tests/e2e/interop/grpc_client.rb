# The interoperability client that comes with gRPC's Ruby library, for many cases in one run, and the one that it lacks.
# Arguments: host, port, and the cases.
require 'grpc'

load File.join(Gem::Specification.find_by_name('grpc').full_gem_path, 'src/ruby/pb/test/client.rb')

class NamedTests
  # Blanks at the ends and what is not ASCII go in percent-encoding, and have to arrive as they were.
  def special_status_message
    message = "\t\ntest with whitespace\r\nand Unicode BMP \u263A and non-BMP \u{1F608}\t\n"
    status = EchoStatus.new(code: 2, message: message)
    begin
      @stub.unary_call(SimpleRequest.new(response_status: status))
    rescue GRPC::Unknown => e
      details = e.details.dup.force_encoding('UTF-8')
      assert("another message: #{details.inspect}") { details == message }
      return
    end
    fail AssertionError, 'the call succeeded'
  end
end

host, port, *cases = ARGV
failed = cases.reject do |test_case|
  ARGV.replace(["--server_host=#{host}", "--server_port=#{port}", '--use_tls=false', "--test_case=#{test_case}"])
  main
  true
rescue StandardError => e
  warn "FAILED: #{test_case}: #{e.class}: #{e.message}"
  false
end
exit(failed.empty?)
